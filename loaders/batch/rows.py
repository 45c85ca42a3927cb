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
    """

    span: Span
    clips: Tensor
    shared: SharedRows | None = None
    plans: list[ClipPlan] = field(default_factory=list)

    @property
    def plan(self) -> ClipPlan:
        return ClipPlan.concatenate(self.plans)


@dataclass(eq=False)
class Row:
    """One video of a batch that is being filled.

    Attributes:
        number: Its row of the batch.
        plan: Of this video alone.
        wanted, order: As `unique_frames` returns them.
        ticket: Of the task in `batch.reader`, if PyAV decodes it.
        encoded: The bytes that are fed to DALI, otherwise.
    """

    number: int
    plan: ClipPlan
    wanted: Ints
    order: Ints
    ticket: int | None = None
    encoded: Future[Encoded] | None = None

    @property
    def video(self) -> int:
        return int(self.plan.videos[0])


@dataclass(eq=False)
class Chunk:
    """Some rows of a batch, which are decoded and augmented together.

    Attributes:
        batch: What is being filled.
        first_row: Number of the first row in the batch.
        rows: The videos.
        shared: A row for each video's frames or views, unless workers write into the batch itself.
    """

    batch: Assembled
    first_row: int
    rows: list[Row]
    shared: SharedRows | None = None
