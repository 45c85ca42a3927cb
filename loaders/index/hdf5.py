"""The arrays of an HDF5 file that somebody else may have written: plain numbers, in that file.

HDF5 offers more than an index needs: a dataset may claim any size without having it, unfold from
a few bytes, lie in another file or be a link to one, or hold pointers. Nothing of that is followed.
"""

from __future__ import annotations

import os
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

_PLAIN_LAYOUTS = (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT)


class Tables:
    """Reads the arrays of an open HDF5 file, in all no more bytes than it has.

    Args:
        file: The open file.
        num_bytes: What its tables take; each is read once, so that this bounds the memory.
    """

    def __init__(self, file: Any, num_bytes: int) -> None:
        self._file, self._left = file, num_bytes

    def array(self, name: str) -> NDArray[Any]:
        """Return a dataset.

        Raises:
            KeyError: There is none in this file itself.
            ValueError: It is not stored as plain numbers, or is larger than the file.
        """
        parts = name.split("/")
        for depth in range(1, len(parts) + 1):
            link = self._file.get("/".join(parts[:depth]), getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise KeyError(f"{name} is missing or a link")
        dataset = self._file[name]
        if not isinstance(dataset, h5py.Dataset):
            raise ValueError(f"{name} is no table")
        creation = dataset.id.get_create_plist()
        is_plain = creation.get_layout() in _PLAIN_LAYOUTS and not creation.get_external_count()
        if not is_plain or dataset.dtype.kind not in "iuf" or dataset.shape is None:
            raise ValueError(f"{name} is not stored as plain numbers")
        if dataset.nbytes != dataset.id.get_storage_size() or dataset.nbytes > self._left:
            raise ValueError(f"{name} claims {dataset.nbytes:,} bytes, which are not there")
        self._left -= dataset.nbytes
        values: NDArray[Any] = dataset[()]
        return values

    def texts(self, name: str) -> tuple[str, ...]:
        """Return what `write_texts` stored; raises as `array` does."""
        blob, offsets = self.array(f"{name}/bytes").tobytes(), self.array(f"{name}/offsets")
        if offsets.ndim != 1 or offsets.dtype != "i8" or np.any(np.diff(offsets, prepend=0) < 0):
            raise ValueError(f"the offsets of {name} are wrong")
        ends = offsets.tolist()
        return tuple(os.fsdecode(blob[a:b]) for a, b in zip(ends, ends[1:], strict=False))


def write_texts(file: Any, name: str, texts: tuple[str, ...] | list[str]) -> None:
    """Store texts as bytes and offsets."""
    parts = [os.fsencode(text) for text in texts]  # file names need not be UTF-8
    file[f"{name}/bytes"] = np.frombuffer(b"".join(parts), np.uint8)
    file[f"{name}/offsets"] = np.cumsum([0, *map(len, parts)], dtype=np.int64)
