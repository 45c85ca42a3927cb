"""The views of one video on one core of a CPU, in numpy; `loaders.graph` does the same on a GPU.

A few frames at a time go through all operations, so that they stay in the core's cache, and what
mixes channels or neighbours is a product with small matrices, which numpy's library does with the
core's vector units: four times faster than a graph of operators that each pass over the whole clip.

The colour map is one linear map, clamped to [0, 255] afterwards. On an RGB column vector p:
`brightness * (contrast * (W p - 128) + 128)`, where W goes to YIQ, turns the I-Q plane by the hue,
stretches it by the saturation, and comes back. The Gaussian blur is separable, reaches 3 sigma and
reflects at the crop's border, whose outermost pixel is not repeated. Normalisation is folded into
the colour map: a blur, whose weights sum to 1, changes nothing about it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdual.loaders.plan import ClipPlan, ClipSpec

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)
_BLUR_REACH = 3.0  # in sigmas; what lies beyond is 0.3 % of the weight
_RGB_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])
_NO_JITTER = (1.0, 1.0, 1.0, 0.0)
_GREY = 128.0
# Chosen by timing: longer matrices multiply more zeros, shorter ones cost more calls.
_FRAMES_AT_A_TIME, _PIXELS_AT_A_TIME, _ROWS_PER_BAND, _COLUMNS_PER_BAND = 2, 4, 28, 16


def augment(
    frames: NDArray[np.uint8], plan: ClipPlan, order: Ints, spec: ClipSpec, out: Floats
) -> None:
    """Make all views of a video.

    Args:
        frames: [F, h, w, 3], of the resized size.
        plan: Of this video alone.
        order: [1, K, T] places of the clips' frames among `frames`.
        spec: Of the plan.
        out: [V, T, H, W, 3], to be filled; pretraining's last view is the shuffled third one.
    """
    size = spec.crop_size
    rows = frames.reshape(*frames.shape[:2], -1)
    for view, clip in enumerate(plan.view_clip):
        y, x = int(plan.crop_y[0, view]), int(plan.crop_x[0, view])
        pixels = rows[:, y : y + size, 3 * x : 3 * (x + size)][order[0, clip]]
        if plan.flip[0, view]:
            upright = pixels.reshape(len(pixels), size, size, 3)
            pixels = np.ascontiguousarray(upright[:, :, ::-1]).reshape(pixels.shape)
        colours = Colours.of(plan.jitter[0, view], size)
        sigma = float(plan.blur_sigma[0, view])
        blur = Blur.of(sigma, size) if sigma > 0 else None
        _fill(pixels, colours, blur, out[view].reshape(pixels.shape))
    if plan.permutation is not None:
        places = frame_order(plan.permutation, spec.frames_per_clip)[0]
        np.take(out[2], places, axis=0, out=out[3], mode="clip")  # "raise" would copy once more


def _fill(pixels: NDArray[np.uint8], colours: Colours, blur: Blur | None, out: Floats) -> None:
    """Run [T, size, 3 size] uint8 pixels through colours and blur, a few frames at a time."""
    shape = (_FRAMES_AT_A_TIME, *pixels.shape[1:])
    first_work, second_work = np.empty(shape, np.float32), np.empty(shape, np.float32)
    for first in range(0, len(pixels), _FRAMES_AT_A_TIME):
        part = pixels[first : first + _FRAMES_AT_A_TIME]
        target = out[first : first + len(part)]
        one, other = first_work[: len(part)], second_work[: len(part)]
        if blur is None:
            colours.apply(part, one, target)
        else:
            colours.apply(part, one, other)
            blur.apply(other, one, target)


@dataclass(frozen=True)
class Colours:
    """Colour jitter and normalisation of frames whose rows are [3 size] interleaved channels.

    Whole frames are added and compared with, for numpy is slower with a row that it repeats.

    Attributes:
        matrix: The jitter for a few pixels at a time, normalised; None where there is none.
        offset: [size, 3 size] what is added after it.
    """

    matrix: Floats | None
    offset: Floats

    @staticmethod
    def of(jitter: NDArray[np.float64], size: int) -> Colours:
        """Take the four values of the plan: brightness, contrast, saturation, hue in degrees."""
        mean, std = np.array(MEAN), np.array(STD)
        if tuple(jitter) == _NO_JITTER:
            return Colours(None, _picture(-mean, size))
        brightness, contrast, saturation, hue = jitter.tolist()
        angle = np.deg2rad(hue)
        chroma = np.eye(3)
        chroma[1:, 1:] = saturation * np.array(
            [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
        )
        turn = np.linalg.inv(_RGB_TO_YIQ) @ chroma @ _RGB_TO_YIQ
        matrix = (brightness * contrast * turn) / std[:, None]
        offset = (brightness * (1 - contrast) * _GREY - mean) / std
        block = np.kron(np.eye(gcd(_PIXELS_AT_A_TIME, size)), matrix.T)
        return Colours(block.astype(np.float32), _picture(offset, size))

    def apply(self, pixels: NDArray[np.uint8], work: Floats, out: Floats) -> None:
        """Map [n, size, 3 size] pixels to normalised values."""
        np.copyto(work, pixels)
        black, white, std = _limits(pixels.shape[1])
        if self.matrix is None:
            np.add(work, self.offset, out=out)
            np.divide(out, std, out=out)
            return
        width = len(self.matrix)
        np.matmul(work.reshape(-1, width), self.matrix, out=out.reshape(-1, width))
        np.add(out, self.offset, out=out)
        np.maximum(out, black, out=out)
        np.minimum(out, white, out=out)


@dataclass(frozen=True)
class Blur:
    """A Gaussian over the height, then over the width, of square frames.

    Attributes:
        columns: For each band of rows: those that it is made of, those made, and [made, of].
        rows: For each band of columns likewise, in single values of the interleaved rows.
    """

    columns: list[tuple[slice, slice, Floats]]
    rows: list[tuple[slice, slice, Floats]]

    @staticmethod
    def of(sigma: float, size: int) -> Blur:
        """Build the matrices; what is beyond the border is mirrored."""
        weights = gaussian(sigma)
        reach = len(weights) // 2
        full = _reflecting(weights, size)
        columns = [
            (source, made, full[made, source])
            for source, made in _bands(size, _ROWS_PER_BAND, reach)
        ]
        rows = []
        for source, made in _bands(size, _COLUMNS_PER_BAND, reach):
            band = full[made, source]
            mixed = np.zeros((band.shape[1], 3, band.shape[0], 3), np.float32)
            for channel in range(3):
                mixed[:, channel, :, channel] = band.T
            wide = [slice(3 * s.start, 3 * s.stop) for s in (source, made)]
            rows.append((wide[0], wide[1], mixed.reshape(3 * band.shape[1], -1)))
        return Blur(columns, rows)

    def apply(self, values: Floats, work: Floats, out: Floats) -> None:
        """Blur [n, size, 3 size] `values` into `out`."""
        for source, made, matrix in self.columns:
            np.matmul(matrix, values[:, source], out=work[:, made])
        flat, target = (a.reshape(-1, a.shape[-1]) for a in (work, out))
        for source, made, matrix in self.rows:
            np.matmul(flat[:, source], matrix, out=target[:, made])


def _bands(size: int, length: int, reach: int) -> list[tuple[slice, slice]]:
    """(what a band is made of, the band) for bands of at most `length` of `size` places."""
    return [
        (slice(max(0, start - reach), min(size, start + length + reach)),
         slice(start, min(size, start + length)))
        for start in range(0, size, length)
    ]  # fmt: skip


def _reflecting(weights: Floats, size: int) -> Floats:
    """The filter as a matrix [size, size] with its mirror at both borders."""
    reach, places = len(weights) // 2, np.arange(size)
    full = np.zeros((size, size))
    period = max(1, 2 * (size - 1))
    for shift, weight in enumerate(weights.tolist(), start=-reach):
        source = (places + shift) % period
        np.add.at(full, (places, np.minimum(source, period - source) % size), weight)
    return full.astype(np.float32)


@lru_cache(maxsize=4)
def _limits(size: int) -> tuple[Floats, Floats, Floats]:
    """Frames of normalised black, normalised white, and the deviation."""
    mean, std = np.array(MEAN), np.array(STD)
    return _picture(-mean / std, size), _picture((255 - mean) / std, size), _picture(STD, size)


def _picture(colour: Any, size: int) -> Floats:
    """A frame [size, 3 size] of one colour."""
    return np.tile(np.asarray(colour, np.float32), (size, size))


def gaussian(sigma: float) -> Floats:
    """Weights of a Gaussian at whole pixels, out to 3 sigma, summing to 1; [1.] for sigma 0."""
    reach = int(np.ceil(_BLUR_REACH * sigma))
    places = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (places / max(sigma, 1e-6)) ** 2)
    normalised: Floats = (weights / weights.sum()).astype(np.float32)
    return normalised


def frame_order(permutation: Ints, frames_per_clip: int) -> NDArray[np.int32]:
    """Order of the frames [B, T] when the segments are played in the order `permutation` [B, S]."""
    length = frames_per_clip // permutation.shape[1]
    places = permutation[:, :, None] * length + np.arange(length)
    order: NDArray[np.int32] = places.reshape(len(permutation), -1).astype(np.int32)
    return order
