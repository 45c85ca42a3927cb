"""Intervals over seeds, groups and videos, where their truth is known."""

from typing import Any

import numpy as np
import pytest

from bench.parts.method.intervals import answers_of, difference, interval
from tests.bench.parts.method.small import row


def rows_of(share: float, *, seeds: int, effect: float = 0.0, videos: int = 100) -> list[Any]:
    """Rows of independent right answers, all seeds and groups alike but for `effect` per seed."""
    rng = np.random.default_rng(5)
    rows = []
    for seed in range(seeds):
        right = rng.random(2 * videos) < share + effect * (seed % 2 - 0.5)
        rows.append(row("clip", {"m": right.astype(float).tolist()}, seed=seed))
    return rows


def test_the_mean_is_over_seeds_and_groups_and_empty_answers_do_not_count() -> None:
    rows = [row("clip", {"m": [1, 1, 0, None]}), row("clip", {"m": [1, 0, 0, 0]}, seed=1)]
    found = interval(answers_of(rows, "m"))
    assert found is not None
    assert found.mean == pytest.approx(100 * np.mean([1, 0, 0.5, 0]))
    assert (found.seeds, found.groups, found.videos) == (2, 2, 4)
    assert interval(answers_of(rows, "other")) is None
    assert "37.5 (" in found.text()


def test_seeds_that_differ_widen_the_interval() -> None:
    alike, apart = (
        interval(answers_of(rows_of(0.5, seeds=6, effect=effect), "m")) for effect in (0.0, 0.4)
    )
    assert alike is not None and apart is not None
    assert apart.high - apart.low > 2 * (alike.high - alike.low)


def test_an_interval_of_independent_answers_is_about_the_binomial_one() -> None:
    """One seed of 2 groups x 400 videos; drawing groups too can only widen it."""
    found = interval(answers_of(rows_of(0.5, seeds=1, videos=400), "m"))
    assert found is not None
    binomial = 100 * 2 * 1.96 * 0.5 / np.sqrt(800)
    assert 0.9 * binomial < found.high - found.low < 2.5 * binomial


def test_what_two_contestants_share_cancels_in_their_difference() -> None:
    """Lucky seeds move both; ours is right where theirs is, and at every tenth video besides."""
    rows = rows_of(0.5, seeds=4, effect=0.6)
    theirs, ours = answers_of(rows, "m"), answers_of(rows, "m")
    for of_seed in ours.values():
        for right in of_seed.values():
            right[::10] = 1.0
    found = difference(ours, theirs)
    alone = interval(theirs)
    assert found is not None and alone is not None
    assert 3 < found.mean < 7 and found.low > 1
    assert found.high - found.low < 0.5 * (alone.high - alone.low)
    nothing = difference(theirs, theirs)
    assert nothing is not None and (nothing.mean, nothing.low, nothing.high) == (0, 0, 0)


def test_a_baseline_of_one_seed_is_compared_with_every_seed_of_the_other() -> None:
    ours = answers_of([row("clip", {"m": [1, 1]}, seed=s) for s in (1, 2, 3)], "m")
    found = difference(ours, answers_of([row("mean frame", {"m": [0, 0]})], "m"))
    assert found is not None and (found.mean, found.seeds) == (100, 3)
    assert difference(ours, {}) is None
