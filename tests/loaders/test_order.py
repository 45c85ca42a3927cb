"""The epoch's order: a pure function, the same for every number of ranks, fast at 10 million."""

import tracemalloc
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdual.errors import InputError
from fastdual.loaders.order import EpochOrder, check_world, permute, rank_span


def global_batches(order: EpochOrder, epoch: int, world_size: int) -> list[list[int]]:
    """The batches of an epoch, put together from what each rank takes."""
    batches = []
    for step in range(order.batches_per_epoch):
        spans = [
            rank_span(*order.span(step), rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        batches.append([int(v) for span in spans for v in order.at(epoch, *span)])
    return batches


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 3000), seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 10**6))
def test_every_video_comes_exactly_once(count, seed, epoch):
    assert np.array_equal(np.sort(permute(count, seed=seed, epoch=epoch)), np.arange(count))


def test_small_permutations_are_uniform():
    counts: dict[tuple[int, ...], int] = {}
    for epoch in range(6000):
        order = tuple(permute(3, seed=1, epoch=epoch).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6
    assert sum((n - 1000) ** 2 / 1000 for n in counts.values()) < 20.5  # chi-square, p = 0.001


def test_the_order_depends_on_seed_and_epoch_and_never_changes():
    assert permute(8, seed=3, epoch=2).tolist() == [0, 1, 2, 6, 3, 5, 7, 4]
    assert permute(100, seed=3, epoch=2).tolist() != permute(100, seed=3, epoch=3).tolist()
    assert permute(100, seed=3, epoch=2).tolist() != permute(100, seed=4, epoch=2).tolist()


def test_batches_are_fixed_slices_of_the_order():
    order = EpochOrder(np.arange(100, 123), global_batch_size=6, seed=5)
    assert order.batches_per_epoch == 3
    whole = 100 + permute(23, seed=5, epoch=4)
    assert [order.batch(4, step).tolist() for step in range(3)] == [
        whole[start : start + 6].tolist() for start in (0, 6, 12)
    ]


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6])
def test_every_world_size_sees_the_same_global_batches(world_size, drop_last):
    order = EpochOrder(91, global_batch_size=12, seed=8, drop_last=drop_last)
    fresh = EpochOrder(91, global_batch_size=12, seed=8, drop_last=drop_last)
    for epoch in (0, 3):
        batches = global_batches(order, epoch, world_size)
        assert batches == [fresh.batch(epoch, step).tolist() for step in range(len(batches))]
        assert len(batches) == (7 if drop_last else 8)
        shown = [video for batch in batches for video in batch]
        assert len(set(shown)) == len(shown) == (84 if drop_last else 91)


def test_resuming_needs_no_memory_of_what_came_before():
    order = EpochOrder(50, global_batch_size=7, seed=2)
    seen = [order.batch(epoch, step).tolist() for epoch in range(3) for step in range(7)]
    resumed = EpochOrder(50, global_batch_size=7, seed=2)
    assert resumed.batch(2, 4).tolist() == seen[2 * 7 + 4]
    assert resumed.batch(0, 0).tolist() == seen[0]


def test_without_shuffling_the_given_order_stays():
    order = EpochOrder(np.array([5, 3, 9]), global_batch_size=2, shuffle=False, drop_last=False)
    assert [order.batch(7, step).tolist() for step in range(2)] == [[5, 3], [9]]


def test_substitutes_are_the_videos_that_follow_in_the_epochs_order():
    order = EpochOrder(np.arange(20, 30), global_batch_size=5, seed=3)
    whole = order.at(1, 0, 10).tolist()
    assert list(islice(order.substitutes(1, 8), 4)) == [whole[9], whole[0], whole[1], whole[2]]
    assert sorted([whole[4], *order.substitutes(1, 4)]) == list(range(20, 30))


def test_the_order_of_ten_million_videos_takes_below_200_mb():
    """Also where one epoch follows another; bench.order measures the time."""
    order = EpochOrder(10_000_000, global_batch_size=512, seed=1)
    tracemalloc.start()
    first, second = order.batch(3, 7), order.batch(4, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 120e6  # 8 bytes a video, and some chunks: the last epoch's order is let go
    assert len({*first.tolist()}) == len({*second.tolist()}) == 512
    assert max(*first, *second) < 10_000_000


def test_an_epoch_is_drawn_once_however_many_batches_are_taken(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "fastdual.loaders.order.permute",
        lambda count, **key: drawn.append(key["epoch"]) or permute(count, **key),
    )
    order = EpochOrder(1000, global_batch_size=10, seed=1)
    for epoch in (0, 1):
        for step in range(100):
            order.batch(epoch, step)
            list(islice(order.substitutes(epoch, 10 * step), 3))
    assert drawn == [0, 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: EpochOrder(5, global_batch_size=6), "a batch of 6 is larger than the data: 5"),
        (lambda: EpochOrder(5, global_batch_size=0), "batch size 0 must be at least 1"),
        (lambda: EpochOrder(0, global_batch_size=1), "no videos to load"),
        (lambda: EpochOrder(5, global_batch_size=1, seed=-1), "seed -1"),
        (lambda: EpochOrder(5, global_batch_size=2).batch(0, 2), "step 2 is not in an epoch of 2"),
        (
            lambda: check_world(rank=2, world_size=2, global_batch_size=4),
            "rank 2 is not in a world",
        ),
        (
            lambda: check_world(rank=0, world_size=3, global_batch_size=8),
            "batch size 8 does not divide over 3 processes; use a multiple of 3",
        ),
    ],
)
def test_what_cannot_work_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
