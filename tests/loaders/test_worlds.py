"""The same batches for every number of processes, stopped or not, also where files are corrupt.

Ordered equality: what the ranks show, put together in their order, is what one process shows, video
for video, in every frame number, crop and permutation, and in every bit of the clips.
"""

import json
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from fastdual.loaders.index import VideoIndex, build_index
from fastdual.loaders.loader import ClipBatch, ClipLoader
from fastdual.loaders.order import EpochOrder
from fastdual.loaders.plan import ClipPlan, ClipSpec
from tests.loaders.clips import encode

NUM_VIDEOS, BATCH, SEED = 26, 12, 5
SEEN, MORE = 3, 2  # batches before the stop, in the middle of epoch 1, and after it
CORRUPT_PLACES = (5, 13, 14, 25)  # in epoch 0's order: two in a row, and the last, which wraps
SPEC = ClipSpec(frames_per_clip=4, frame_stride=3, resize_height=20, resize_width=28, crop_size=16)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> VideoIndex:
    """Videos of different lengths; some were corrupted after they were indexed."""
    root = tmp_path_factory.mktemp("worlds") / "videos"
    for number in range(NUM_VIDEOS):
        encode(root / f"{number:02}.mp4", 8 + number, gop=6)
    index = build_index(root, root.parent / "x.h5", num_workers=2)
    for place, video in zip(CORRUPT_PLACES, corrupt_videos(), strict=True):
        contents = index.path(video).read_bytes()
        index.path(video).write_bytes(contents[: len(contents) // 2] if place % 2 else b"")
    return index


def corrupt_videos() -> list[int]:
    order = EpochOrder(NUM_VIDEOS, global_batch_size=BATCH, seed=SEED)
    return [int(order.at(0, place, place + 1)[0]) for place in CORRUPT_PLACES]


def take(loader: ClipLoader, count: int) -> list[ClipBatch]:
    batches: list[ClipBatch] = []
    while len(batches) < count:
        batches.extend(islice(loader, count - len(batches)))
    return batches


def open_loader(index: VideoIndex, rank: int, world_size: int) -> ClipLoader:
    options: dict[str, Any] = {"batch_size": BATCH, "seed": SEED, "num_workers": 1, "prefetch": 1}
    return ClipLoader(index, SPEC, rank=rank, world_size=world_size, **options)


def load_all(index: VideoIndex, world_size: int) -> tuple[list[list[ClipBatch]], dict[str, Any]]:
    """Each rank's batches of a run without a stop, and the state in its middle, through JSON."""
    parts, states = [], []
    for rank in range(world_size):
        with open_loader(index, rank, world_size) as loader:
            seen = take(loader, SEEN)
            states.append(json.dumps(loader.state_dict()))
            parts.append(seen + take(loader, MORE))
    assert len(set(states)) == 1  # a checkpoint needs the state of one rank
    return parts, json.loads(states[0])


def resume(index: VideoIndex, world_size: int, state: dict[str, Any]) -> list[list[ClipBatch]]:
    parts = []
    for rank in range(world_size):
        with open_loader(index, rank, world_size) as loader:
            loader.load_state_dict(state)
            parts.append(take(loader, MORE))
    return parts


def assert_are(parts: list[list[ClipBatch]], truth: list[ClipBatch]) -> None:
    """What the ranks show, joined in their order, is `truth`, batch by batch."""
    for step, whole in enumerate(truth):
        batches = [part[step] for part in parts]
        assert [len(batch.clips) for batch in batches] == [BATCH // len(parts)] * len(parts)
        ids = torch.cat([batch.video_ids for batch in batches])
        assert ids.tolist() == whole.video_ids.tolist()
        joined = ClipPlan.concatenate([batch.plan for batch in batches]).to_arrays()
        for name, values in whole.plan.to_arrays().items():
            assert np.array_equal(joined[name], values), name
        permutation = torch.cat([batch.permutation for batch in batches])
        assert torch.equal(permutation, whole.permutation)
        assert torch.equal(torch.cat([batch.clips for batch in batches]), whole.clips)


@pytest.fixture(scope="module")
def alone(index: VideoIndex) -> list[ClipBatch]:
    """The batches of one process that is never stopped."""
    with open_loader(index, 0, 1) as loader:
        return take(loader, SEEN + MORE)


def test_corrupt_videos_stand_in_the_middle_and_are_replaced(alone: list[ClipBatch]) -> None:
    order = EpochOrder(NUM_VIDEOS, global_batch_size=BATCH, seed=SEED)
    bad = corrupt_videos()
    shown = torch.cat([batch.video_ids for batch in alone[:2]]).tolist()
    places = order.at(0, 0, 2 * BATCH).tolist()
    differ = [place for place in range(2 * BATCH) if shown[place] != places[place]]
    assert differ == [5, 13, 14]
    assert [shown[place] for place in differ] == [places[6], places[15], places[15]]
    assert not set(bad) & set(torch.cat([batch.video_ids for batch in alone]).tolist())


@pytest.mark.parametrize(("world_size", "then"), [(1, 2), (2, 3), (3, 4), (4, 6), (6, 1)])
def test_every_world_shows_the_same_also_resumed_on_another(
    index: VideoIndex, alone: list[ClipBatch], world_size: int, then: int
) -> None:
    parts, state = load_all(index, world_size)
    assert (state["epoch"], state["step"]) == (1, 1)
    assert_are(parts, alone)
    assert_are(resume(index, then, state), alone[SEEN:])
