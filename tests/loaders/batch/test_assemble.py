"""Every row of a batch is at its place, wherever it was decoded and whatever memory it lies in."""

from itertools import islice

import pytest
import torch
from torch import Tensor

from fastdual.loaders import loader
from fastdual.loaders.batch import assemble, reader
from fastdual.loaders.batch.assemble import MOST_SHARED_BATCHES
from fastdual.loaders.index import VideoIndex
from fastdual.loaders.loader import ClipLoader
from tests.loaders.loading import SPEC, assert_same, load, order_of


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_the_rounded_batch(index: VideoIndex, dtype: torch.dtype):
    (full,), (half,) = load(index, 1), load(index, 1, dtype=dtype)
    assert torch.equal(half.clips, full.clips.to(dtype))


def test_dali_and_pyav_serve_one_batch_side_by_side(
    index: VideoIndex, request: pytest.FixtureRequest
):
    """VP9 files go through DALI, H.264 files through PyAV, and every row is at its place."""
    pyav = load(index, 3)
    request.getfixturevalue("dali_where_it_can")
    dali = load(index, 3)
    assert_same(load(index, 6, batch_size=2), dali)
    for ours, theirs in zip(dali, pyav, strict=True):
        assert torch.equal(ours.video_ids, theirs.video_ids)
        for row, video in enumerate(ours.video_ids.tolist()):
            assert theirs.decoders[row] == "pyav"
            if index.codecs[video] == "h264":
                assert ours.decoders[row] == "pyav"
                assert torch.equal(ours.clips[row], theirs.clips[row])
            else:
                assert ours.decoders[row] == "dali-cpu"
                assert not torch.equal(ours.clips[row], theirs.clips[row])
                difference = (ours.clips[row] - theirs.clips[row]).abs().mean()
                assert difference < 2 / 57  # 2 of 255, normalised


def test_workers_go_on_while_one_video_takes_long(
    own_index: VideoIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first video is decoded after more others than are under way as a rule."""
    folder = own_index.root.parent
    expected = load(own_index, 6, num_workers=2)
    (folder / "first").write_text("16 20")
    monkeypatch.setattr(reader, "_RUN_TASK", "tests.loaders.loading:run_task_late")
    monkeypatch.setattr(loader, "available_cpus", lambda _: 2)
    assert_same(load(own_index, 6, num_workers=2), expected)
    assert not (folder / "first").exists()


def test_videos_under_way_are_bounded(
    own_index: VideoIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A video that waits for more others than may be under way fails, and another is shown."""
    folder = own_index.root.parent
    (folder / "first").write_text("40 3")
    monkeypatch.setattr(assemble, "_MOST_BYTES_AHEAD", 0)
    monkeypatch.setattr(reader, "_RUN_TASK", "tests.loaders.loading:run_task_late")
    monkeypatch.setattr(loader, "available_cpus", lambda _: 2)
    first = order_of(own_index)[0]
    (batch,) = load(own_index, 1, num_workers=2)
    assert batch.video_ids[0] != first
    assert (folder / "done").stat().st_size < 40


def test_batches_that_are_held_and_batches_that_are_let_go_are_the_same(index: VideoIndex):
    """More batches than are shared with the workers: the others are copied."""
    count = MOST_SHARED_BATCHES + 3
    let_go: list[Tensor] = []
    with ClipLoader(index, SPEC, batch_size=4, seed=3, num_workers=1) as loader:
        while len(let_go) < count:
            let_go.extend(batch.clips.clone() for batch in islice(loader, count - len(let_go)))
    held = [batch.clips for batch in load(index, count)]
    assert torch.equal(torch.cat(held), torch.cat(let_go))
