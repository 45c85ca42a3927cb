"""Which videos a run was trained on, so that measuring on them is noticed: RUN/trained_on.npy.

The file holds the first eight bytes of the SHA-256 of each video, as sorted numbers. The same video
is recognised in another index or folder, but not after it was encoded again.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdual.loaders.files import write

_NAME = "trained_on.npy"
_MAX_BYTES = 1 << 30

Numbers = NDArray[np.uint64]


def _numbers(sha256: NDArray[np.uint8]) -> Numbers:
    """Return [N] numbers of checksums [N, 32]."""
    numbers: Numbers = np.ascontiguousarray(sha256[:, :8]).view("<u8").ravel()
    return numbers


def note_videos(run: Path, sha256: NDArray[np.uint8]) -> None:
    """Write which videos, by checksums [N, 32], a run is trained on.

    Raises:
        FailureError: The file cannot be written.
    """
    file = io.BytesIO()
    np.save(file, np.unique(_numbers(sha256)), allow_pickle=False)
    write(run / _NAME, file.getvalue(), "the list of the run's videos")


def trained_on(checkpoint: Path) -> Numbers | None:
    """Return the videos of a checkpoint's run; None where it is not known."""
    file: Any = checkpoint.parent.parent / _NAME
    try:
        if checkpoint.parent.name != "checkpoints" or file.stat().st_size > _MAX_BYTES:
            return None
        numbers = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None  # a run of an earlier version
    return numbers if numbers.ndim == 1 and numbers.dtype == np.uint64 else None


def seen(known: Numbers | None, sha256: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return [N] which of the videos, by checksums [N, 32], a network was trained on, if known."""
    return np.isin(_numbers(sha256), [] if known is None else known)
