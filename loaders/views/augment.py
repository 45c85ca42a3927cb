"""The views of one video on one core of a CPU, in numpy; `views.graph` makes the same on a GPU.

A few frames at a time go through all operations, so that they stay in the core's cache. Each colour
lies in a plane of its own: then mixing colours or neighbours is a product with a small matrix, for
which numpy's library uses the core's vector units, and only the edges of a band are multiplied by
zeros. The planes become pixels as they are written out.

The colour map is one linear map, clamped to [0, 255] afterwards. On an RGB column vector p:
`brightness * (contrast * (W p - grey) + grey)`, where W goes to YIQ, turns the I-Q plane by the
hue, stretches it by the saturation, and comes back; grey is the mean luma of the clip's frames as
cropped, which W does not change. The Gaussian blur is separable, reaches 3 sigma and
reflects at the crop's border, whose outermost pixel is not repeated. Normalisation is folded into
the colour map: a blur, whose weights sum to 1, changes nothing about it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fastdual.loaders.plan import ClipPlan, ClipSpec

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

IMAGENET_MEAN, IMAGENET_STD = ClipSpec.mean, ClipSpec.std
MEAN, STD = (tuple(255 * value for value in of) for of in (IMAGENET_MEAN, IMAGENET_STD))
_BLUR_REACH = 3.0  # in sigmas; what lies beyond is 0.3 % of the weight
_RGB_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])
_YIQ_TO_RGB = np.linalg.inv(_RGB_TO_YIQ)
LUMA = tuple(_RGB_TO_YIQ[0].tolist())  # of red, green and blue in the grey of a pixel
# What the colour map keeps of luma, and of chroma for the cosine and the sine of the hue.
_LUMA = np.outer(_YIQ_TO_RGB[:, 0], _RGB_TO_YIQ[0])
_COSINE = _YIQ_TO_RGB[:, 1:] @ _RGB_TO_YIQ[1:]
_SINE = np.outer(_YIQ_TO_RGB[:, 1], _RGB_TO_YIQ[2]) - np.outer(_YIQ_TO_RGB[:, 2], _RGB_TO_YIQ[1])
_NO_JITTER = (1.0, 1.0, 1.0, 0.0)
_MIDDLE_GREY = 128.0
# Chosen by timing: wider bands multiply more zeros, narrower ones cost more calls.
_FRAMES_AT_A_TIME, _BAND = 2, 16


def augment(
    frames: NDArray[np.uint8], plan: ClipPlan, order: Ints, spec: ClipSpec, out: Floats
) -> None:
    """Make all views of a video.

    Args:
        frames: [F, 3, h, w] of the resized size.
        plan: Of this video alone.
        order: [1, K, T] places of the clips' frames among `frames`.
        spec: Of the plan.
        out: [V, T, H, W, 3], is filled; with a permutation, the last view is the one before it,
            shuffled.
    """
    size = spec.crop_size
    work = Work.of(size)
    for view, clip in enumerate(plan.view_clip):
        y, x = int(plan.crop_y[0, view]), int(plan.crop_x[0, view])
        crops = frames[:, :, y : y + size, x : x + size]
        if plan.flip[0, view]:
            crops = crops[..., ::-1]
        jitter, places = plan.jitter[0, view], order[0, clip]
        about_mean = spec.contrast_about == "mean" and jitter[1] != 1
        grey = mean_grey(crops, places) if about_mean else _MIDDLE_GREY
        colours = Colours.of(jitter, grey, *pixel_scale(spec))
        sigma = float(plan.blur_sigma[0, view])
        blur = Blur.of(sigma, size) if sigma > 0 else None
        for first in range(0, len(places), _FRAMES_AT_A_TIME):
            part = slice(first, first + _FRAMES_AT_A_TIME)
            _fill(crops, places[part], colours, blur, work, out[view, part])
    if plan.permutation is not None:
        places = frame_order(plan.permutation, spec.frames_per_clip)[0]
        # The last of the others is shuffled; "raise" would copy once more.
        np.take(out[-2], places, axis=0, out=out[-1], mode="clip")


def mean_grey(crops: NDArray[np.uint8], places: Ints) -> float:
    """Return the mean luma, in 0..255, of the crops [F, 3, h, w] at n places."""
    shown, counts = np.unique(places, return_counts=True)
    # Row by row first: numpy adds bytes to 32 bits in vector units, and to 64 bits one by one.
    sums = crops[shown].sum(axis=3, dtype=np.uint32).sum(axis=2, dtype=np.int64)
    num_pixels = len(places) * crops.shape[2] * crops.shape[3]
    return float(counts @ sums @ _RGB_TO_YIQ[0] / num_pixels)


@dataclass(frozen=True)
class Work:
    """Memory for a few frames, used again by every call: one thread of a process augments.

    Attributes:
        pixels: [4, n, size, size] red, green and blue, and ones that an offset is multiplied by.
        planes, others: [3, n, size, size] each.
    """

    pixels: Floats
    planes: Floats
    others: Floats

    @staticmethod
    @lru_cache(maxsize=1)
    def of(size: int) -> Work:
        shape = (3, _FRAMES_AT_A_TIME, size, size)
        pixels = np.ones((4, *shape[1:]), np.float32)
        return Work(pixels, np.empty(shape, np.float32), np.empty(shape, np.float32))


def _fill(
    crops: NDArray[np.uint8],
    places: Ints,
    colours: Colours,
    blur: Blur | None,
    work: Work,
    out: Floats,
) -> None:
    """Run the crops [F, 3, size, size] at n places through colours and blur, into [n, ..., 3]."""
    for number, place in enumerate(places.tolist()):
        np.copyto(work.pixels[:3, number], crops[place])
    # After fewer frames than fit, older ones follow in `work`; whole arrays are faster than parts.
    colours.apply(work.pixels, work.planes)
    if blur is not None:
        blur.apply(work.planes, work.others)
    for channel in range(3):
        out[..., channel] = work.planes[channel, : len(places)]


Scale = tuple[float, ...]


def pixel_scale(spec: ClipSpec) -> tuple[Scale, Scale]:
    """Return mean and deviation of each channel of pixels in 0..255."""
    mean, std = (tuple(255 * value for value in of) for of in (spec.mean, spec.std))
    return mean, std


def colour_turns(jitter: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the matrices W [..., 3, 3] of the colour map for jitter [..., 4], as in a plan."""
    saturation, angle = jitter[..., 2], np.radians(jitter[..., 3])
    cosine, sine = (saturation * part for part in (np.cos(angle), np.sin(angle)))
    turns: NDArray[np.float64] = (
        _LUMA + cosine[..., None, None] * _COSINE + sine[..., None, None] * _SINE
    )
    return turns


@dataclass(frozen=True)
class Colours:
    """Colour jitter and normalisation of a frame's planes.

    Attributes:
        matrix: [3, 4] the jitter and the offset after it, normalised; None without jitter.
        mean, std: Of each channel of pixels in 0..255.
    """

    matrix: Floats | None
    mean: Scale
    std: Scale

    @staticmethod
    def of(jitter: NDArray[np.float64], grey: float, mean: Scale, std: Scale) -> Colours:
        """Make the map of the plan's brightness, contrast, saturation and hue in degrees, [4].

        Contrast turns about `grey`, in 0..255.
        """
        if tuple(jitter) == _NO_JITTER:
            return Colours(None, mean, std)
        brightness, contrast = jitter[:2].tolist()
        turn = colour_turns(jitter)
        offset = brightness * (1 - contrast) * grey - np.array(mean)[:, None]
        matrix = np.hstack([brightness * contrast * turn, offset]) / np.array(std)[:, None]
        return Colours(matrix.astype(np.float32), mean, std)

    def apply(self, pixels: Floats, out: Floats) -> None:
        """Map [4, n, size, size] pixels to normalised planes [3, n, size, size]."""
        if self.matrix is None:
            for channel, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
                np.subtract(pixels[channel], np.float32(mean), out=out[channel])
                np.divide(out[channel], np.float32(std), out=out[channel])
            return
        np.matmul(self.matrix, pixels.reshape(4, -1), out=out.reshape(3, -1))
        for plane, mean, std in zip(out, self.mean, self.std, strict=True):
            np.clip(plane, np.float32(-mean / std), np.float32((255 - mean) / std), out=plane)


@dataclass(frozen=True)
class Blur:
    """A Gaussian over the height, then over the width, of square planes.

    Attributes:
        bands: For each band of rows or columns: its sources, the band itself, the weights
            [band, sources], and their transpose.
    """

    bands: list[tuple[slice, slice, Floats, Floats]]

    @staticmethod
    def of(sigma: float, size: int) -> Blur:
        """Build the matrices; pixels beyond the border are mirrored."""
        weights = gaussian(sigma)
        reach = len(weights) // 2
        full = _reflecting(weights, size)
        bands = []
        for start in range(0, size, _BAND):
            source = slice(max(0, start - reach), min(size, start + _BAND + reach))
            made = slice(start, min(size, start + _BAND))
            band = np.ascontiguousarray(full[made, source])
            # Transposed in memory as well: a strided matrix takes numpy's library twice as long.
            bands.append((source, made, band, np.ascontiguousarray(band.T)))
        return Blur(bands)

    def apply(self, planes: Floats, work: Floats) -> None:
        """Blur planes [3, n, size, size] in place; `work` has the same shape."""
        for source, made, weights, _ in self.bands:
            np.matmul(weights, planes[:, :, source], out=work[:, :, made])
        rows, target = (a.reshape(-1, a.shape[-1]) for a in (work, planes))
        for source, made, _, weights in self.bands:
            np.matmul(rows[:, source], weights, out=target[:, made])


def _reflecting(weights: Floats, size: int) -> Floats:
    """Return the filter as a matrix [size, size] that mirrors at both borders."""
    places = _mirrored_places(len(weights) // 2, size)
    repeated = np.tile(weights, size)
    full = np.bincount(places, repeated, minlength=size * size)
    return full.reshape(size, size).astype(np.float32)


@lru_cache(maxsize=32)
def _mirrored_places(reach: int, size: int) -> Ints:
    """Return the places of every row's weights in a flat [size, size] matrix, row by row."""
    period = max(1, 2 * (size - 1))
    source = (np.arange(size)[:, None] + np.arange(-reach, reach + 1)) % period
    inside = np.minimum(source, period - source) % size
    places: Ints = (np.arange(size)[:, None] * size + inside).ravel()
    return places


def gaussian(sigma: float) -> Floats:
    """Return the weights of a Gaussian at whole pixels up to 3 sigma; they sum to 1."""
    sigmas = np.array(sigma)
    half = half_gaussians(sigmas, int(reach_of(sigmas)))
    return np.concatenate([half[:0:-1], half])


def half_gaussians(sigmas: NDArray[np.float64], reach: int) -> Floats:
    """Return the weights [..., 1 + reach] of Gaussians at distances 0..reach, 0 beyond 3 sigma."""
    places = np.arange(reach + 1)
    weights = np.exp(-0.5 * (places / np.maximum(sigmas, 1e-6)[..., None]) ** 2)
    weights[places > reach_of(sigmas)[..., None]] = 0.0
    normalised: Floats = weights / (2 * weights.sum(axis=-1, keepdims=True) - 1)
    return normalised.astype(np.float32)


def reach_of(sigmas: NDArray[np.float64]) -> Ints:
    """Return how many pixels Gaussians reach."""
    return np.ceil(_BLUR_REACH * sigmas).astype(np.int64)


def num_chains(spec: ClipSpec) -> int:
    """Evaluation cuts all its clips in the same way, so one long chain makes them all."""
    return 1 if spec.mode == "evaluate" else len(spec.view_clip)


def frame_order(permutation: Ints, frames_per_clip: int) -> NDArray[np.int32]:
    """Return the order of the frames [B, T] for the segments' order `permutation` [B, S]."""
    length = frames_per_clip // permutation.shape[1]
    places = permutation[:, :, None] * length + np.arange(length)
    order: NDArray[np.int32] = places.reshape(len(permutation), -1).astype(np.int32)
    return order
