"""The parts of a batch that is being filled: spans, rows, chunks."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fastdual.loaders.plan import ClipPlan
from fastdual.loaders.pool.memory import SharedRows

Ints = NDArray[np.int64]
Encoded = NDArray[np.uint8]


@dataclass(frozen=True)
class Span:
    """The part of a global batch that this rank assembles: positions start..stop-1 of an epoch."""

    epoch: int
    step: int
    start: int
    stop: int


@dataclass(eq=False)
class Assembled:
    """A batch that is being filled.

    Attributes:
        span: Its place in the data.
        clips: [B, V, T, H, W, C].
        shared: The same memory where workers can write to it; None where they cannot.
        plans: They join to the plan of what is shown.
        decoded: Of each row, who decoded it, and why PyAV did in place of another.
    """

    span: Span
    clips: Tensor
    shared: SharedRows | None = None
    plans: list[ClipPlan] = field(default_factory=list)
    decoded: list[tuple[str, str]] = field(default_factory=list)

    @property
    def plan(self) -> ClipPlan:
        return ClipPlan.concatenate(self.plans)

    @property
    def is_complete(self) -> bool:
        return len(self.decoded) == len(self.clips)


@dataclass(frozen=True)
class Watched:
    """A frame that DALI and PyAV both decode, see `canary`.

    Attributes:
        place: Of the frame among the wanted ones.
        frames: Numbers of those that PyAV decodes: the frame and its neighbours.
        ticket: Of PyAV's task.
        shared: What it fills: [1, 3, h, w, 3].
    """

    place: int
    frames: Ints
    ticket: int
    shared: SharedRows


@dataclass(eq=False)
class Row:
    """One video of a batch that is being filled.

    Attributes:
        batch, number: The batch, and its row of it.
        plan: Of this video alone.
        wanted, order: As `unique_frames` returns them.
        ticket: Of the task in `batch.reader`, if PyAV decodes it.
        encoded: The bytes that are fed to DALI, otherwise.
        watched: What the canary compares, of a row that DALI decodes.
        reason: Why PyAV decodes it in place of DALI, "" if it is the decoder.
    """

    batch: Assembled
    number: int
    plan: ClipPlan
    wanted: Ints
    order: Ints
    ticket: int | None = None
    encoded: Future[Encoded] | None = None
    watched: Watched | None = None
    reason: str = ""

    @property
    def video(self) -> int:
        return int(self.plan.videos[0])


@dataclass(eq=False)
class Chunk:
    """Some rows of one batch or of several, in order, which are decoded and augmented together.

    Attributes:
        rows: The videos.
        shared: A row for each video's frames or views, unless workers write into the batch itself.
    """

    rows: list[Row]
    shared: SharedRows | None = None
