"""What is under way between the order and a finished batch: spans, rows, chunks."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fastdual.loaders.plan import ClipPlan

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
    """A batch being filled: `clips` is [B, V, T, H, W, C]; `plans` join to the plan as shown."""

    span: Span
    clips: Tensor
    plans: list[ClipPlan] = field(default_factory=list)

    @property
    def plan(self) -> ClipPlan:
        return ClipPlan.concatenate(self.plans)


@dataclass(eq=False)
class Row:
    """One video under way; exactly one of `ticket` (PyAV) and `encoded` (for DALI) is set."""

    position: int
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
    batch: Assembled
    first_row: int
    rows: list[Row]
