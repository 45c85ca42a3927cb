"""Plans for tests: drawn for videos of given lengths, and compared."""

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
from numpy.typing import ArrayLike

from fastdual.loaders.plan import ClipPlan, ClipSpec, draw_plan

MANY = 20_000


def draw(
    spec: ClipSpec,
    num_frames: ArrayLike,
    *,
    seed: int = 1,
    epoch: int = 0,
    videos: Sequence[int] | None = None,
) -> ClipPlan:
    num_frames = np.atleast_1d(np.asarray(num_frames, np.int64))
    videos = np.arange(len(num_frames)) if videos is None else np.asarray(videos)
    return draw_plan(spec, seed=seed, epoch=epoch, videos=videos, num_frames=num_frames)


def assert_same_plan(one: ClipPlan, other: ClipPlan) -> None:
    for field in fields(ClipPlan):
        ours, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(ours, np.ndarray):
            assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs), field.name
