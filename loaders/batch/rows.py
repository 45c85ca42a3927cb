"""What is under way between the order and a finished batch: spans, rows, chunks."""

from __future__ import annotations

import math
import weakref
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fastdual.loaders.plan import ClipPlan
from fastdual.loaders.pool.channel import SharedMemory

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
    """A batch being filled: `clips` is [B, V, T, H, W, C]; `plans` join to the plan as shown.

    `memory` is what the clips lie in, where workers can write to it.
    """

    span: Span
    clips: Tensor
    memory: SharedMemory | None = None
    plans: list[ClipPlan] = field(default_factory=list)

    @property
    def plan(self) -> ClipPlan:
        return ClipPlan.concatenate(self.plans)

    @property
    def row_bytes(self) -> int:
        return self.clips.nbytes // len(self.clips)


class BatchMemory:
    """Hands out memory for batches, and hands it out again when nobody holds it any more.

    The system clears fresh memory page by page, which takes as long as filling it does; and workers
    need not map again what they know. Whoever holds more batches than are kept gets plain memory.
    """

    MOST_KEPT = 8  # those that wait, that are under way and that the reader holds are fewer

    def __init__(self) -> None:
        self._kept: list[tuple[SharedMemory, weakref.ref[Any]]] = []

    def take(self, shape: tuple[int, ...]) -> tuple[NDArray[np.float32], SharedMemory | None]:
        """Return an array with anything in it, and the memory if it is shared.

        A tensor made of the array, and whatever is made of that, counts as a holder.
        """
        nbytes = 4 * math.prod(shape)
        free = [memory for memory, holder in self._kept if holder() is None]
        fitting = next((memory for memory in free if memory.nbytes == nbytes), None)
        self._kept = [pair for pair in self._kept if pair[1]() is not None or pair[0] is fitting]
        if fitting is None and (len(self._kept) == self.MOST_KEPT or not nbytes):
            return np.empty(shape, np.float32), None
        memory = fitting or SharedMemory(nbytes)
        values = memory.floats()
        self._kept = [pair for pair in self._kept if pair[0] is not memory]
        self._kept.append((memory, weakref.ref(values)))  # every view of them holds `values`
        return values.reshape(shape), memory


@dataclass(eq=False)
class Row:
    """One video under way; exactly one of `ticket` (PyAV) and `encoded` (for DALI) is set."""

    batch: Assembled
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
    batch: Assembled
    first_row: int
    rows: list[Row]
