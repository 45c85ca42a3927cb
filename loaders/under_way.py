"""What is under way between the order and a finished batch: spans, rows, chunks."""

from __future__ import annotations

import sys
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property

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


class BatchMemory:
    """Hands out memory for batches, and hands it out again when nobody holds it any more.

    The system clears fresh memory page by page, which takes as long as filling it does.
    """

    _KEPT = 5  # those that wait, that are under way and that the reader holds

    def __init__(self) -> None:
        self._arrays: list[NDArray[np.float32]] = []

    def take(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return an array with anything in it; a tensor made `from_numpy` counts as a holder."""
        for number in range(len(self._arrays)):
            is_free = sys.getrefcount(self._arrays[number]) == self._references_when_free
            if is_free and self._arrays[number].shape == shape:
                return self._arrays[number]
        array = np.empty(shape, np.float32)  # numpy asks for huge pages
        self._arrays = [array, *self._arrays[: self._KEPT - 1]]
        return array

    @cached_property
    def _references_when_free(self) -> int:
        """What `sys.getrefcount` says of an array that only a list holds; Pythons differ."""
        arrays = [np.empty(1, np.float32)]
        return sys.getrefcount(arrays[0])


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
