"""Messages and big arrays between two processes: a socket for the words, memfds for the pixels.

A message is a pickled object behind its length. An array never goes through the socket: the
worker writes it into a memfd (anonymous memory with a file descriptor, so neither /dev/shm nor a
name is needed) and passes the descriptor once; afterwards both sides know the buffer by number.
"""

from __future__ import annotations

import array
import itertools
import math
import mmap
import os
import pickle
import socket
import struct
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

_HEADER = struct.Struct("<QI")  # length of the pickle, 1 if a file descriptor comes along
_GRAIN = 1 << 20  # buffers are whole MiB, so that results of slightly different size share one


class ChannelClosed(ConnectionError):
    """The other process is gone."""


@dataclass(frozen=True)
class ArrayHeader:
    """Describes an array that lies in a shared buffer."""

    buffer: int
    buffer_bytes: int
    shape: tuple[int, ...]
    dtype: str
    is_new: bool


@dataclass(frozen=True)
class Deferred:
    """An array that is yet to be made, in the memory in which it is handed over.

    Attributes:
        shape, dtype: What it will be.
        fill: Called with the empty array.
    """

    shape: tuple[int, ...]
    dtype: str
    fill: Callable[[NDArray[Any]], None]

    @staticmethod
    def of(values: NDArray[Any]) -> Deferred:
        """One that is there already and has to be copied."""

        def fill(target: NDArray[Any]) -> None:
            np.copyto(target, values)

        return Deferred(values.shape, values.dtype.str, fill)


class Channel:
    """One end of a socket pair; each `receive` returns exactly what one `send` was given."""

    def __init__(self, endpoint: socket.socket) -> None:
        self._socket = endpoint

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: Any, *, descriptor: int | None = None) -> None:
        """Send one object and, if given, a file descriptor; raises ChannelClosed."""
        body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        header = _HEADER.pack(len(body), descriptor is not None)
        rights = []
        if descriptor is not None:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
        try:
            sent = self._socket.sendmsg([header], rights)
            self._socket.sendall(header[sent:])
            self._socket.sendall(body)
        except OSError as error:
            raise ChannelClosed(str(error)) from error

    def receive(self) -> tuple[Any, int | None]:
        """Return the next object and the descriptor sent with it; raises ChannelClosed."""
        try:
            header, descriptors, _, _ = socket.recv_fds(self._socket, _HEADER.size, 1)
            if not header:
                raise ChannelClosed("end of stream")
            header += self._read(_HEADER.size - len(header))
            length, _ = _HEADER.unpack(header)
            return pickle.loads(self._read(length)), (descriptors[0] if descriptors else None)
        except OSError as error:
            raise ChannelClosed(str(error)) from error

    def _read(self, length: int) -> bytes:
        chunks: list[bytes] = []
        while length:
            chunk = self._socket.recv(min(length, 1 << 20))
            if not chunk:
                raise ChannelClosed("end of stream")
            chunks.append(chunk)
            length -= len(chunk)
        return b"".join(chunks)

    def close(self) -> None:
        self._socket.close()


class SharedMemory:
    """Memory of the parent's that workers write results to; free when nobody holds a part of it."""

    def __init__(self, nbytes: int) -> None:
        self.number, self.nbytes = next(_numbers), nbytes
        self.descriptor = os.memfd_create("fastdual", os.MFD_CLOEXEC)
        # Not at the interpreter's exit: workers may still be sent it, and it ends with the process.
        weakref.finalize(self, os.close, self.descriptor).atexit = False
        os.ftruncate(self.descriptor, nbytes)
        self._map = mmap.mmap(self.descriptor, nbytes)

    def floats(self) -> NDArray[np.float32]:
        """All of it."""
        return np.frombuffer(self._map, np.float32)


_numbers = itertools.count()


@dataclass(frozen=True)
class Place:
    """Where in which memory a result is to be made."""

    memory: int
    nbytes: int
    offset: int


@dataclass
class Attached:
    """The worker's side: the shared memories that it has mapped."""

    _maps: dict[int, mmap.mmap] = field(default_factory=dict)

    def attach(self, place: Place, descriptor: int) -> None:
        """Map a memory; the caller closes the descriptor."""
        self._maps[place.memory] = mmap.mmap(descriptor, place.nbytes)

    def forget(self, memories: tuple[int, ...]) -> None:
        """Let memories go that nobody holds any more."""
        for memory in memories:
            self._maps.pop(memory, None)

    def fill(self, place: Place, result: Deferred) -> None:
        """Make a result at its place; raises what its `fill` does."""
        target = np.frombuffer(
            self._maps[place.memory], result.dtype, math.prod(result.shape), place.offset
        )
        result.fill(target.reshape(result.shape))


@dataclass
class Shown:
    """The parent's side for one worker: the memories that it has mapped.

    A mapping keeps its memory, so the worker must hear which of them are gone here.
    """

    _memories: dict[int, weakref.ref[SharedMemory]] = field(default_factory=dict)

    def show(self, memory: SharedMemory) -> bool:
        """Note that a worker gets a memory; says whether it is new to it."""
        is_new = memory.number not in self._memories
        self._memories[memory.number] = weakref.ref(memory)
        return is_new

    def take_gone(self) -> tuple[int, ...]:
        """Return, once, the numbers of those that nobody holds any more."""
        gone = tuple(number for number, memory in self._memories.items() if memory() is None)
        for number in gone:
            del self._memories[number]
        return gone


@dataclass
class BufferWriter:
    """The worker's side: owns the memfds and has results written into them."""

    _buffers: dict[int, mmap.mmap] = field(default_factory=dict)
    _next: int = 0

    def write(self, result: Deferred, buffer: int | None) -> tuple[ArrayHeader, int]:
        """Make the result in `buffer` if it fits, else in a new one; raises what its `fill` does.

        Returns:
            The header to send, and the new buffer's file descriptor (-1 if there is none); the
            caller sends the descriptor and closes it.
        """
        descriptor = -1
        count, dtype = math.prod(result.shape), np.dtype(result.dtype)
        if buffer is None or len(self._buffers[buffer]) < count * dtype.itemsize:
            size = max(_GRAIN, -(-count * dtype.itemsize // _GRAIN) * _GRAIN)
            descriptor = os.memfd_create("fastdual", os.MFD_CLOEXEC)
            os.ftruncate(descriptor, size)
            buffer, self._next = self._next, self._next + 1
            self._buffers[buffer] = mmap.mmap(descriptor, size)
        memory = self._buffers[buffer]
        try:
            result.fill(np.frombuffer(memory, dtype, count).reshape(result.shape))
        except BaseException:
            if descriptor >= 0:
                os.close(descriptor)
                del self._buffers[buffer]
            raise
        header = ArrayHeader(buffer, len(memory), result.shape, result.dtype, descriptor >= 0)
        return header, descriptor

    def drop(self, buffers: tuple[int, ...]) -> None:
        """Forget buffers that the reader has let go."""
        for buffer in buffers:
            self._buffers.pop(buffer, None)


@dataclass
class BufferReader:
    """The parent's side for one worker: maps its memfds and keeps count of the free ones."""

    _buffers: dict[int, mmap.mmap] = field(default_factory=dict)
    _free: list[int] = field(default_factory=list)
    _dropped: list[int] = field(default_factory=list)

    def view(self, header: ArrayHeader, descriptor: int | None) -> NDArray[Any]:
        """Return the array that `header` describes without copying it."""
        if header.is_new:
            assert descriptor is not None
            self._buffers[header.buffer] = mmap.mmap(descriptor, header.buffer_bytes)
            os.close(descriptor)
        memory = self._buffers[header.buffer]
        count = math.prod(header.shape)
        return np.frombuffer(memory, header.dtype, count).reshape(header.shape)

    def take(self) -> tuple[int | None, tuple[int, ...]]:
        """Return a free buffer for the next result, and the buffers the worker shall drop."""
        dropped, self._dropped = tuple(self._dropped), []
        return (self._free.pop() if self._free else None), dropped

    def put_back(self, buffer: int, *, keep: int) -> None:
        """Make a buffer free again; beyond `keep` free ones it is dropped."""
        if buffer in self._free or buffer not in self._buffers:
            return
        if len(self._free) < keep:
            self._free.append(buffer)
            return
        del self._buffers[buffer]
        self._dropped.append(buffer)
