"""Batches around the decoders of other libraries."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.parts.loader import dataset as loader_dataset
from bench.parts.loader import decoders
from fastdual.loaders.batch.reader import unique_frames
from fastdual.loaders.index import build_index
from fastdual.loaders.plan import ClipSpec, draw_plan
from tests.loaders.clips import encode
from tests.loaders.views.augment_reference import reference_views


def test_contestants_augment_as_the_float64_reference_does() -> None:
    spec = ClipSpec(frames_per_clip=4, resize_height=40, resize_width=57, crop_size=32)
    video = np.random.default_rng(0).integers(0, 256, (30, 40, 57, 3), np.uint8)
    for number in range(4):
        plan = draw_plan(
            spec, seed=number, epoch=0, videos=np.array([0]), num_frames=np.array([30])
        )
        (wanted,), order = unique_frames(plan.frames)
        views = loader_dataset.augment(torch.from_numpy(video[wanted]), plan, order, spec)
        expected = reference_views(video, plan, spec)
        assert np.allclose(views.permute(0, 2, 3, 4, 1).numpy(), expected, atol=2e-3)


def test_threads_yield_the_batches_of_a_dataloader_and_run_ahead_by_a_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(tmp_path / "videos" / "a.mp4", 12)
    encode(tmp_path / "videos" / "b.mp4", 9)
    index = build_index(tmp_path / "videos", tmp_path / "x.h5", num_workers=1)
    spec = ClipSpec(frames_per_clip=4, resize_height=36, resize_width=48, crop_size=32)
    asked: list[int] = []
    original = loader_dataset.VideoDataset.__getitem__

    def note(dataset: loader_dataset.VideoDataset, number: int) -> torch.Tensor:
        asked.append(number)
        return original(dataset, number)

    dataset = loader_dataset.VideoDataset(
        index, spec, decoders.pyav, batch_size=2, num_batches=1000
    )
    expected = list(islice(loader_dataset.under_dataloader(dataset, num_workers=0), 3))
    monkeypatch.setattr(loader_dataset.VideoDataset, "__getitem__", note)
    batches = loader_dataset.under_threads(dataset, num_workers=2)
    for ours, theirs in zip(expected, batches, strict=False):
        assert torch.equal(ours, theirs)
    batches.close()
    assert len(asked) < 20  # of 2,000
