"""What goes wrong with files: a byte that flips, a disk that is full."""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np


def flip(file: Path, offset: int) -> None:
    """Change one bit of the byte at an offset."""
    with open(file, "r+b") as opened:
        opened.seek(offset)
        (value,) = opened.read(1)
        opened.seek(offset)
        opened.write(bytes([value ^ 4]))


@contextmanager
def only_so_large(num_bytes: int) -> Iterator[None]:
    """Have writing past this length of a file fail as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def damage(contents: bytes, rng: np.random.Generator) -> bytes:
    """Cut it off, flip bits, blank or swap a stretch, or put bytes in: one of them at random."""
    size, kind = len(contents), rng.integers(6)
    at = int(rng.integers(size))
    if rng.random() < 0.3:  # the header and the tables are small: hit them as often
        at = int(rng.integers(min(size, 4096)))
    data, length = bytearray(contents), int(rng.integers(1, 200))
    if kind == 0:
        return contents[:at]
    if kind == 1:
        data[at] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        for place in rng.integers(size, size=8):
            data[place] ^= 1 << int(rng.integers(8))
    elif kind == 3:
        data[at : at + length] = bytes(len(data[at : at + length]))
    elif kind == 4:
        data[at:at] = rng.bytes(length)
    else:
        other = int(rng.integers(max(1, size - length)))
        stretch = data[other : other + length]
        data[at : at + len(stretch)] = stretch
    return bytes(data)
