"""A canary for DALI's pictures: now and then PyAV decodes one of them too, and they are compared.

The index proves that PyAV decodes a video; nothing proves that DALI shows the same frames, in the
same colours. Rows number 1, 2, 4, 8, ... and every 2,000th of each kind are watched: a fault of a
kind shows in its first row, and one that needs other videos before it soon after. For less than one
row in a hundred of a large set, one frame and its two neighbours are decoded twice.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastdual.loaders.batch.kinds import Kind
from fastdual.loaders.batch.reader import FrameReader
from fastdual.loaders.batch.rows import Row, Watched
from fastdual.loaders.decode.picture import encode_png
from fastdual.loaders.files import write
from fastdual.loaders.index.table import VideoIndex
from fastdual.loaders.plan import ClipSpec
from fastdual.loaders.pool.memory import RecycledMemory

Pictures = NDArray[np.uint8]

_EVERY = 2000
_WHAT = "the pictures of the decoders"
_BLOCK = 8
# Of 255, luma and chroma, averaged over a block: two right decoders differ by up to 0.4 and 0.7 on
# real videos, where one takes the nearest chroma sample by what lies within a pixel of the source.
_TOLERANCE = (3.0, 2.0, 2.0)
_NEIGHBOUR = 4.0  # below this, blocks of luma do not tell two frames apart
_TO_YCC = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)


class Canary:
    """Chooses the rows that are watched, and compares.

    Args:
        index, spec: What is loaded.
        reader: Decodes with PyAV.
        folder: Pictures that differ are saved here; None: in a new folder among the system's
            temporary ones, so that nobody else can have prepared it.
    """

    def __init__(
        self, index: VideoIndex, spec: ClipSpec, reader: FrameReader, folder: Path | None
    ) -> None:
        self._index, self._spec, self._reader = index, spec, reader
        self._folder = folder
        self._rows: Counter[Kind] = Counter()
        self._memory = RecycledMemory()

    def watch(self, row: Row, kind: Kind) -> Watched | None:
        """Have PyAV decode one frame of a row too, if it is this row's turn."""
        self._rows[kind] += 1
        count = self._rows[kind]
        if count % _EVERY and count & (count - 1):
            return None
        place = (count * 7 + row.video) % len(row.wanted)  # any of them, and soon each
        frame = int(row.wanted[place])
        first, last = max(frame - 1, 0), min(frame + 1, int(self._index.num_frames[row.video]) - 1)
        size = (self._spec.resize_height, self._spec.resize_width)
        shared = self._memory.take((1, 3, *size, 3), "|u1")
        assert shared is not None
        frames = np.arange(first, last + 1)
        ticket = self._reader.submit(row.video, frames, shared.row(0, len(frames)))
        return Watched(place, frames, ticket, shared)

    def compare(self, row: Row, kind: Kind, shown: Pictures) -> str | None:
        """Return how DALI's picture of a watched row is wrong, or None.

        Args:
            row: A watched one.
            kind: Its kind.
            shown: [h, w, 3], upright and scaled.
        """
        watched = row.watched
        assert watched is not None
        if self._reader.wait(watched.ticket) is not None:
            return None  # PyAV cannot tell either
        frame, rotation = int(row.wanted[watched.place]), int(self._index.rotation[row.video])
        truth = watched.shared.row(0, len(watched.frames)).array
        number = frame - int(watched.frames[0])
        height = kind.height if rotation % 180 == 0 else kind.width
        scale = self._spec.resize_height / height
        wrong = find_fault(shown, truth, number, scale)
        if wrong is None:
            return None
        name = "".join(c if c.isalnum() else "-" for c in str(kind))
        self._folder = self._folder or Path(tempfile.mkdtemp(prefix="fastdual-decoder-check-"))
        for decoder, picture in (("dali", shown), ("pyav", truth[number])):
            write(self._folder / f"{name}-{decoder}.png", encode_png(picture), _WHAT)
        return (
            f"frame {frame} of {self._index.path(row.video)} {wrong}; both pictures are in "
            f"{self._folder} as {name}-dali.png and {name}-pyav.png"
        )


def find_fault(shown: Pictures, truth: Pictures, place: int, scale: float) -> str | None:
    """Say how a picture differs from the right one more than two right decoders do; None if not.

    Args:
        shown: [h, w, 3], the picture in question.
        truth: [N, h, w, 3], the right picture and its neighbours.
        place: Number of the right one in `truth`.
        scale: Pixels of the picture per pixel of the video.
    """
    ours, right = _to_ycc(shown), _to_ycc(truth[place])
    distance = _blocks(ours - right)
    excess = np.abs(distance) - 2 * min(scale, 2.0) * _gradients(right) - np.array(_TOLERANCE)
    luma = np.abs(distance[..., 0]).max(initial=0)
    for number in range(len(truth)):
        if number != place and luma > _NEIGHBOUR:
            other = np.abs(_blocks(ours - _to_ycc(truth[number]))[..., 0]).max(initial=0)
            if other < luma / 2:
                side = "before" if number < place else "after"
                return f"is shown as the frame {side} it"
    if excess.max(initial=0) > 0:
        what = "brightness" if excess[..., 0].max() > 0 else "colour"
        mean = np.abs(shown.astype(float) - truth[place]).mean()
        return f"has another {what} (by {np.abs(distance).max():.0f} of 255, {mean:.1f} on average)"
    return None


def _to_ycc(picture: Pictures) -> NDArray[np.float64]:
    values: NDArray[np.float64] = picture @ _TO_YCC.T
    return values


def _blocks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average [h, w, C] over whole blocks."""
    rows, columns = (length // _BLOCK * _BLOCK for length in values.shape[:2])
    parts = values[:rows, :columns].reshape(rows // _BLOCK, _BLOCK, columns // _BLOCK, _BLOCK, -1)
    means: NDArray[np.float64] = parts.mean(axis=(1, 3))
    return means


def _gradients(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return by how much neighbouring pixels differ, the larger of both directions, in blocks."""
    down = np.abs(np.diff(values, axis=0, append=values[-1:]))
    right = np.abs(np.diff(values, axis=1, append=values[:, -1:]))
    return np.maximum(_blocks(down), _blocks(right))
