"""Memory of the parent process that workers write arrays into.

The memory is a memfd: anonymous memory with a file descriptor, which needs neither /dev/shm nor a
name. A worker is sent the descriptor once; from then on both sides know the memory by its number.
"""

from __future__ import annotations

import itertools
import math
import mmap
import os
import weakref
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

_numbers = itertools.count()


class SharedMemory:
    """Anonymous memory of `nbytes` bytes; it is freed when no array of it is left."""

    def __init__(self, nbytes: int) -> None:
        self.number, self.nbytes = next(_numbers), nbytes
        self.descriptor = os.memfd_create("fastdual", os.MFD_CLOEXEC)
        # Not at the interpreter's exit: until then it may be sent to workers.
        weakref.finalize(self, os.close, self.descriptor).atexit = False
        os.ftruncate(self.descriptor, nbytes)
        self._map = mmap.mmap(self.descriptor, nbytes)

    def array(self, shape: tuple[int, ...], dtype: str, offset: int = 0) -> NDArray[Any]:
        """Return an array that lies in this memory, `offset` bytes from its start."""
        return _array_in(self._map, shape, dtype, offset)


@dataclass(frozen=True)
class Place:
    """A target as it is described to a worker, with the memory by its number."""

    memory: int
    nbytes: int
    shape: tuple[int, ...]
    dtype: str
    offset: int


@dataclass(frozen=True)
class Target:
    """The array that a task fills, `offset` bytes from the start of a shared memory."""

    memory: SharedMemory
    shape: tuple[int, ...]
    dtype: str
    offset: int = 0

    @property
    def place(self) -> Place:
        memory = self.memory
        return Place(memory.number, memory.nbytes, self.shape, self.dtype, self.offset)

    @property
    def array(self) -> NDArray[Any]:
        return self.memory.array(self.shape, self.dtype, self.offset)


@dataclass(frozen=True)
class SharedRows:
    """An array [N, ...] that fills a shared memory; tasks fill its rows."""

    memory: SharedMemory
    values: NDArray[Any]

    def row(self, number: int, length: int | None = None) -> Target:
        """Return row `number`, or its first `length` parts, as a target."""
        part = self.values[number, :length]
        offset = number * self.values.strides[0]
        return Target(self.memory, part.shape, part.dtype.str, offset)


class RecycledMemory:
    """Hands out shared memory, and hands it out again when nobody holds an array of it any more.

    The system clears fresh memory page by page, which takes as long as filling it does, and workers
    need not map again what they know. Memory is held by the array, by its views, and by tensors
    made of them:

        one = recycled.take(shape, dtype)     # fresh memory A
        clips = torch.from_numpy(one.values)  # A is held twice
        del one
        two = recycled.take(shape, dtype)     # fresh memory B: `clips` holds A
        del clips
        three = recycled.take(shape, dtype)   # A again

    Args:
        most: Memories held at a time; each costs two file descriptors. None for no limit.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._taken: list[tuple[SharedMemory, weakref.ref[Any]]] = []

    def take(self, shape: tuple[int, ...], dtype: str) -> SharedRows | None:
        """Return an array with anything in it; None where it is empty or the limit is reached."""
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        free = [memory for memory, holder in self._taken if holder() is None]
        self._taken = [(memory, holder) for memory, holder in self._taken if holder() is not None]
        memory = next((memory for memory in free if memory.nbytes == nbytes), None)
        if memory is None:
            if not nbytes or len(self._taken) == self._most:
                return None
            memory = SharedMemory(nbytes)
        values = memory.array(shape, dtype)
        self._taken.append((memory, weakref.ref(values.base)))  # every view of them holds the base
        return SharedRows(memory, values)


@dataclass
class Attached:
    """The shared memories that this worker has mapped."""

    _maps: dict[int, mmap.mmap] = field(default_factory=dict)

    def array(self, place: Place, descriptor: int | None) -> NDArray[Any]:
        """Return the array at a place; the descriptor of a new memory is used up."""
        if descriptor is not None:
            self._maps[place.memory] = mmap.mmap(descriptor, place.nbytes)
            os.close(descriptor)
        return _array_in(self._maps[place.memory], place.shape, place.dtype, place.offset)

    def forget(self, memories: tuple[int, ...]) -> None:
        """Unmap memories that the parent has freed."""
        for memory in memories:
            self._maps.pop(memory, None)


@dataclass
class Shown:
    """The shared memories that one worker has mapped, as the parent knows it.

    A mapping keeps the memory alive, so the worker must be told which memories the parent freed.
    """

    _memories: dict[int, weakref.ref[SharedMemory]] = field(default_factory=dict)

    def show(self, memory: SharedMemory) -> bool:
        """Note that the worker gets a memory; return whether it is new to the worker."""
        is_new = memory.number not in self._memories
        self._memories[memory.number] = weakref.ref(memory)
        return is_new

    def take_gone(self) -> tuple[int, ...]:
        """Return the numbers of freed memories, each once."""
        gone = tuple(number for number, memory in self._memories.items() if memory() is None)
        for number in gone:
            del self._memories[number]
        return gone


def _array_in(memory: mmap.mmap, shape: tuple[int, ...], dtype: str, offset: int) -> NDArray[Any]:
    return np.frombuffer(memory, dtype, math.prod(shape), offset).reshape(shape)
