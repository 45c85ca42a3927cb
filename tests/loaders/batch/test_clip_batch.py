"""ClipBatch is moved like any batch."""

import pytest
import torch

from fastdual.loaders.batch.clip_batch import ClipBatch
from fastdual.loaders.index import VideoIndex
from tests.loaders.loading import load


@pytest.fixture(scope="module")
def batch(index: VideoIndex) -> ClipBatch:
    return load(index, 1)[0]


def test_all_tensors_move_and_the_plan_stays(batch: ClipBatch) -> None:
    moved = batch.to("meta", non_blocking=True)
    for name in ("clips", "permutation", "video_ids", "labels"):
        assert getattr(moved, name).device.type == "meta"
        assert getattr(moved, name).shape == getattr(batch, name).shape
    assert moved.plan is batch.plan and batch.clips.device.type == "cpu"


def test_lightning_moves_it(batch: ClipBatch) -> None:
    from lightning.fabric.utilities import move_data_to_device

    moved = move_data_to_device({"videos": [batch]}, torch.device("meta"))
    assert moved["videos"][0].clips.device.type == "meta"


def test_accelerate_moves_it(batch: ClipBatch) -> None:
    from accelerate.utils import send_to_device

    assert send_to_device(batch, torch.device("meta")).clips.device.type == "meta"


def test_a_batch_without_permutation_moves_too(batch: ClipBatch) -> None:
    plain = ClipBatch(batch.clips, None, batch.video_ids, batch.labels, batch.plan)
    assert plain.to("meta").permutation is None and len(plain) == len(batch.clips)
