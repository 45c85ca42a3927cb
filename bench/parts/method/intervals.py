"""Means of a contestant over a data set, and their 95 % intervals over seeds, groups and videos.

A bootstrap draws all three with replacement, because each is a sample: the seeds of training, the
people who were filmed, the videos of each. Two contestants are compared on the same draws, so that
what they share (a hard signer, a lucky fold) cancels.

Letters: R resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.parts.method.journal import Row

RESAMPLES, CONFIDENCE = 2000, 0.95

# Answers by seed and group: [N] right or wrong of its videos.
Answers = dict[int, dict[str, NDArray[np.float64]]]


@dataclass(frozen=True)
class Interval:
    """A mean with its interval, all in per cent.

    Attributes:
        mean: Over the seeds, of the mean over the groups.
        low, high: The interval.
        seeds, groups, videos: How many there are.
    """

    mean: float
    low: float
    high: float
    seeds: int
    groups: int
    videos: int

    def text(self) -> str:
        """Return "61.2 (58.0 to 64.1)"."""
        return f"{self.mean:.1f} ({self.low:.1f} to {self.high:.1f})"


def answers_of(rows: Sequence[Row], measure: str) -> Answers:
    """Collect the answers of one contestant on one set, fold by fold."""
    found: Answers = {}
    for row in rows:
        given = row["answers"].get(measure)
        if given is None:
            continue
        values = np.array([np.nan if answer is None else answer for answer in given], float)
        of_seed = found.setdefault(row["seed"], {})
        for number, group in enumerate(row["groups"]):
            mine = values[np.array(row["group_of"]) == number]
            if np.isfinite(mine).any():
                of_seed[group] = mine[np.isfinite(mine)]
    return found


def interval(answers: Answers) -> Interval | None:
    """Return the mean of a contestant with its interval; None without answers."""
    seeds, groups = sorted(answers), _groups(answers)
    if not groups:
        return None
    drawn = _resampled(answers, seeds, groups, np.random.default_rng(0))
    return _summary(_mean(answers, seeds, groups), drawn, answers, seeds, groups)


def difference(ours: Answers, theirs: Answers) -> Interval | None:
    """Return the mean of ours minus theirs over the seeds and groups that both have.

    A contestant with one seed, a baseline that has none, is compared with every seed of the other.
    """
    ours, theirs = _shared(ours, theirs)
    seeds, groups = sorted(ours), _groups(ours)
    if not groups:
        return None
    pair = []
    for answers in (ours, theirs):  # the same generator draws the same seeds and groups
        pair.append(_resampled(answers, seeds, groups, np.random.default_rng(0)))
    mean = _mean(ours, seeds, groups) - _mean(theirs, seeds, groups)
    return _summary(mean, pair[0] - pair[1], ours, seeds, groups)


def _shared(ours: Answers, theirs: Answers) -> tuple[Answers, Answers]:
    """Keep what both have, and give a contestant of one seed that seed's answers everywhere."""
    if len(theirs) == 1 and set(theirs) != set(ours):
        theirs = dict.fromkeys(ours, next(iter(theirs.values())))
    if len(theirs) == 1 and len(ours) > 1:
        theirs = dict.fromkeys(ours, next(iter(theirs.values())))
    pairs: tuple[Answers, Answers] = ({}, {})
    for seed in ours.keys() & theirs.keys():
        for group in ours[seed].keys() & theirs[seed].keys():
            for kept, answers in zip(pairs, (ours, theirs), strict=True):
                kept.setdefault(seed, {})[group] = answers[seed][group]
    return pairs


def _groups(answers: Answers) -> list[str]:
    return sorted({group for of_seed in answers.values() for group in of_seed})


def _mean(answers: Answers, seeds: Sequence[int], groups: Sequence[str]) -> float:
    means = [
        answers[seed][group].mean() for seed in seeds for group in groups if group in answers[seed]
    ]
    return float(np.mean(means))


def _resampled(
    answers: Answers, seeds: Sequence[int], groups: Sequence[str], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return the means [R] of resamples of seeds, groups and videos.

    The numbers drawn depend on the seeds, groups and videos alone, not on the answers.
    """
    means = np.full((RESAMPLES, len(seeds), len(groups)), np.nan)
    for i, seed in enumerate(seeds):
        for j, group in enumerate(groups):
            if group in answers[seed]:
                values = answers[seed][group]
                videos = rng.integers(len(values), size=(RESAMPLES, len(values)))
                means[:, i, j] = values[videos].mean(axis=1)
    of_seeds = rng.integers(len(seeds), size=(RESAMPLES, len(seeds)))
    of_groups = rng.integers(len(groups), size=(RESAMPLES, len(groups)))
    numbers = np.arange(RESAMPLES)[:, None, None]
    drawn = means[numbers, of_seeds[:, :, None], of_groups[:, None, :]].reshape(RESAMPLES, -1)
    filled = np.isfinite(drawn)
    total, count = np.where(filled, drawn, 0.0).sum(axis=1), filled.sum(axis=1)
    whole = np.nanmean(means.reshape(RESAMPLES, -1), axis=1)
    result: NDArray[np.float64] = np.where(count > 0, total / np.maximum(count, 1), whole)
    return result


def _summary(
    mean: float,
    drawn: NDArray[np.float64],
    answers: Answers,
    seeds: Sequence[int],
    groups: Sequence[str],
) -> Interval:
    edges = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    low, high = (100 * float(edge) for edge in np.quantile(drawn, edges))
    videos = sum(
        max(len(answers[seed][group]) for seed in seeds if group in answers[seed])
        for group in groups
    )
    return Interval(100 * mean, low, high, len(seeds), len(groups), videos)
