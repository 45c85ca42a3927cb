"""A file in memory with a hole in it: HDF5 puts a pack's tables around data that lie elsewhere.

Written in memory, since the HDF5 library crashes (segmentation fault) where a disk fills under it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any


class HollowFile(io.RawIOBase):
    """A binary file of which bytes `start` to `start + length` are not kept, and read as zeros."""

    def __init__(self, start: int, length: int) -> None:
        self._start, self._end = start, start + length
        self._solid = bytearray()  # what lies before and after the hole
        self._size = self._position = 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def truncate(self, size: int | None = None) -> int:
        self._size = self._position if size is None else size
        solid = self._solid_length(self._size)
        del self._solid[solid:]
        self._solid.extend(bytes(solid - len(self._solid)))
        return self._size

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._size - self._position))
        view[:count] = bytes(count)
        for here, there, length in self._solid_parts(count):
            view[here : here + length] = self._solid[there : there + length]
        self._position += count
        return count

    def write(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        if len(view) and self._position + len(view) > self._size:
            self.truncate(self._position + len(view))
        for here, there, length in self._solid_parts(len(view)):
            self._solid[there : there + length] = view[here : here + length]
        self._position += len(view)
        return len(view)

    def parts(self) -> list[tuple[int, memoryview]]:
        """Return what lies before and after the hole, each with its place in the file."""
        solid, before = memoryview(self._solid), self._solid_length(self._start)
        return [(0, solid[:before]), (self._end, solid[before:])]

    @property
    def size(self) -> int:
        """Bytes of the whole file, those of the hole included."""
        return self._size

    def _solid_length(self, position: int) -> int:
        """How many bytes before a position are kept."""
        return min(position, self._start) + max(0, position - self._end)

    def _solid_parts(self, count: int) -> Iterator[tuple[int, int, int]]:
        """(place among the next `count` bytes, place in `_solid`, length) of what is kept."""
        last = self._position + count
        for begin, end in ((0, self._start), (self._end, last)):
            begin, end = max(begin, self._position), min(end, last)
            if begin < end:
                yield begin - self._position, self._solid_length(begin), end - begin
