"""The order of stored frames: each frame has one place, those of a clip are neighbours."""

from collections.abc import Iterator

import numpy as np
import pytest

from fastdual.loaders.decode import frame_order
from fastdual.loaders.decode.frame_order import FrameOrder, reorder

SIZE = (128, 176)


def test_the_order_of_the_docstring() -> None:
    order = FrameOrder(10, 4, SIZE)
    assert order.frames().tolist() == [0, 4, 8, 1, 5, 9, 2, 6, 3, 7]
    assert order.places_of(np.array([[0, 4], [9, 3]])).tolist() == [[0, 1], [5, 8]]
    assert order.starts(2).tolist() == [0, 2, 3, 5, 6, 8]


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 7, 240])
@pytest.mark.parametrize("num_frames", [1, 2, 3, 4, 5, 16, 23, 24, 25, 49, 100])
def test_every_frame_has_one_place(
    num_frames: int, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame_order, "_BLOCK_FRAMES", 24)  # several blocks
    order = FrameOrder(num_frames, stride, SIZE)
    frames = order.frames()
    assert sorted(frames.tolist()) == list(range(num_frames))
    assert np.array_equal(order.places_of(frames), np.arange(num_frames))
    # Neighbours in the same phase of a block are `stride` apart; a keyframe begins each phase.
    follows = np.flatnonzero(np.diff(frames) == stride) + 1
    starts = set(range(num_frames)) - set(follows.tolist())
    assert starts <= set(order.starts(1000).tolist()) if stride > 1 else order.starts(5)[0] == 0


def test_a_stride_of_one_keeps_the_shown_order() -> None:
    assert FrameOrder(5000, 1, SIZE).frames().tolist() == list(range(5000))


def test_a_block_is_bounded_by_its_pixels() -> None:
    assert FrameOrder(10**6, 4, SIZE).block == 1024
    assert FrameOrder(10**6, 4, (1080, 1920)).block == 64
    assert FrameOrder(10**6, 240, (8192, 8192)).block == 240


def test_a_clip_of_this_stride_is_a_run_of_places() -> None:
    places = FrameOrder(300, 4, SIZE).places_of(np.arange(17, 17 + 64, 4))
    assert np.array_equal(np.diff(places), np.ones(15, int))


def test_reordering_holds_no_more_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_order, "_BLOCK_FRAMES", 24)
    count, order = 100, FrameOrder(100, 4, SIZE)
    arrived = 0

    def pictures() -> Iterator[str]:
        nonlocal arrived
        for number in range(count):
            arrived += 1
            yield f"picture {number}"

    wanted = order.frames().tolist()
    for place, picture in enumerate(reorder(pictures(), range(count), wanted)):
        assert picture == f"picture {wanted[place]}"
        assert arrived - place <= order.block
    back = reorder((f"{n}" for n in wanted), wanted, range(count))
    assert list(back) == [str(n) for n in range(count)]
