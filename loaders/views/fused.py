"""All views of a chunk of videos in two launches on a GPU: the greys of the clips, then the views.

The second opinion is `views.graph`, which takes about a hundred operators for the same. A program
of the kernel makes one tile of one frame of a view: it loads the frame where it lies, maps its
colours, blurs and normalises, and stores into the batch in the batch's own dtype. The blur is a
product with the Gaussian on either side, and mirrors at the border as it loads. Every number comes
from the plan. Needs triton; under TRITON_INTERPRET=1 it runs on a CPU.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from fastdual.loaders.plan import ClipPlan, ClipSpec
from fastdual.loaders.views.augment import (
    LUMA,
    colour_turns,
    frame_order,
    half_gaussians,
    pixel_scale,
    reach_of,
)

Ints = NDArray[np.int64]

_TILE, _STEP = 32, 32  # pixels of a side of a tile, and rows of its surroundings at a time
_GREY_ROWS, _GREY_COLUMNS = 16, 128
_WARPS = 4  # with tiles of 64 pixels they spill, see bench/results/kernels_aot.csv
_RED, _GREEN, _BLUE = (tl.constexpr(weight) for weight in LUMA)
_MIDDLE_GREY = tl.constexpr(128.0)
_RECORD, _COLOURS = tl.constexpr(5), tl.constexpr(10)  # of `Tables`, before frames and weights


class Tables(NamedTuple):
    """The plan of B videos as the kernel reads it, one record for each of the V augmented views.

    Attributes:
        whole: [B, V, 5 + 2 T] int32: row of the batch, crop's top and left, flip, reach of the blur
            (0: none); numbers of the T frames; where the shuffled view shows each.
        real: [B, V, 10 + 1 + R] float32: the colour map's matrix, row by row; the factor of the
            grey that it adds; the weights of the blur at distances 0..R.
    """

    whole: NDArray[np.int32]
    real: NDArray[np.float32]


def tables(spec: ClipSpec, plan: ClipPlan, numbers: Ints, rows: Ints) -> Tables:
    """Lay out the plan of B videos.

    Args:
        spec: Of the plan.
        plan: Of these videos.
        numbers: [B, K, T] places of the clips' frames among all that are given to the kernel.
        rows: [B] the videos' rows of the batch.
    """
    shape = len(plan), len(plan.view_clip), 1
    frames = numbers[:, list(plan.view_clip)]
    shuffled = np.zeros_like(frames)
    if plan.permutation is not None:
        shuffled[:] = np.argsort(frame_order(plan.permutation, frames.shape[2]), axis=1)[:, None]
    reach = np.where(plan.blur_sigma > 0, reach_of(plan.blur_sigma), 0)
    of_view: list[NDArray[Any]] = [
        np.broadcast_to(rows[:, None], reach.shape),
        plan.crop_y,
        plan.crop_x,
    ]
    of_view += [plan.flip, reach]
    whole = [np.stack(of_view, axis=-1), frames, shuffled]
    brightness, contrast = plan.jitter[..., 0], plan.jitter[..., 1]
    matrices = (brightness * contrast)[..., None, None] * colour_turns(plan.jitter)
    real: list[NDArray[Any]] = [
        matrices.reshape(*shape[:2], 9),
        (brightness * (1 - contrast))[..., None],
    ]
    real.append(half_gaussians(plan.blur_sigma, _most_reach(spec)))
    return Tables(
        np.concatenate(whole, axis=-1).astype(np.int32),
        np.concatenate(real, axis=-1).astype(np.float32),
    )


def _most_reach(spec: ClipSpec) -> int:
    return int(reach_of(np.array(spec.blur_sigma[1]))) if spec.is_blurred else 0


def make_views(frames: Tensor, spec: ClipSpec, plan: Tables, clips: Tensor) -> None:
    """Make all views of some videos of a batch.

    Args:
        frames: [N, h, w, 3] uint8 of the resized size, those of all videos one after another.
        spec: Of the plan.
        plan: What `tables` returned for these videos.
        clips: [rows, views, T, H, W, 3] the batch, float32, float16 or bfloat16, contiguous; the
            videos' rows are filled. With a permutation, the last view is the one before, shuffled.
    """
    if not (frames.is_contiguous() and clips.is_contiguous()):
        raise ValueError("frames and clips must be contiguous")
    whole, real = (torch.from_numpy(table).to(frames.device) for table in plan)
    videos, views = whole.shape[:2]
    height, width = frames.shape[1:3]
    size, length = spec.crop_size, spec.frames_per_clip
    about_mean = spec.mode != "evaluate" and spec.contrast_about == "mean"
    greys = real.new_empty((videos * views, length)) if about_mean else None
    options = {"num_warps": _WARPS, "num_stages": 1, "enable_fp_fusion": True}
    if about_mean:
        _greys_kernel[(videos * views, length)](
            frames, whole, real, greys, height, width, size, length, real.shape[2],
            ROWS=_GREY_ROWS, COLUMNS=_GREY_COLUMNS, **options,
        )  # fmt: skip
    tile = min(_TILE, max(16, triton.next_power_of_2(size)))
    reach = _most_reach(spec)
    tiles = triton.cdiv(size, tile)
    mean, std = pixel_scale(spec)
    _views_kernel[(videos * views, length, tiles * tiles)](
        frames, whole, real, greys, clips, height, width, size, length, views, clips.shape[1],
        *mean, *(1 / value for value in std),
        REACH=reach, TILE=tile, STEP=_STEP, WIDE=triton.next_power_of_2(tile + 2 * reach),
        LENGTH=triton.next_power_of_2(length), SHUFFLED=spec.is_shuffled,
        **options,
    )  # fmt: skip


@triton.jit
def _greys_kernel(
    frames_ptr, whole_ptr, real_ptr, greys_ptr, height, width, size, length, num_real,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Store the mean luma of one frame as cropped: program (video and view, frame of the clip)."""
    pair, moment = tl.program_id(0), tl.program_id(1)
    record = whole_ptr + pair * (_RECORD + 2 * length)
    grey = 0.0  # without jitter it has no part in the colours
    if tl.load(real_ptr + pair * num_real + _COLOURS - 1) != 0:
        frame = tl.load(record + _RECORD + moment).to(tl.int64)
        source = frames_ptr + frame * height * width * 3
        source += (tl.load(record + 1) * width + tl.load(record + 2)) * 3
        red = tl.zeros([ROWS, COLUMNS], tl.int32)
        green = tl.zeros([ROWS, COLUMNS], tl.int32)
        blue = tl.zeros([ROWS, COLUMNS], tl.int32)
        for row in range(0, size, ROWS):
            for column in range(0, size, COLUMNS):
                rows = row + tl.arange(0, ROWS)[:, None]
                columns = column + tl.arange(0, COLUMNS)[None, :]
                at = source + (rows * width + columns) * 3
                inside = (rows < size) & (columns < size)
                red += tl.load(at, mask=inside, other=0).to(tl.int32)
                green += tl.load(at + 1, mask=inside, other=0).to(tl.int32)
                blue += tl.load(at + 2, mask=inside, other=0).to(tl.int32)
        luma = _RED * tl.sum(red.to(tl.int64)).to(tl.float32)
        luma += _GREEN * tl.sum(green.to(tl.int64)).to(tl.float32)
        luma += _BLUE * tl.sum(blue.to(tl.int64)).to(tl.float32)
        grey = luma / (size * size)
    tl.store(greys_ptr + pair * length + moment, grey)


@triton.jit
def _views_kernel(
    frames_ptr, whole_ptr, real_ptr, greys_ptr, clips_ptr,
    height, width, size, length, num_views, clip_views,
    red_mean, green_mean, blue_mean, red_scale, green_scale, blue_scale,
    REACH: tl.constexpr, TILE: tl.constexpr, STEP: tl.constexpr, WIDE: tl.constexpr,
    LENGTH: tl.constexpr, SHUFFLED: tl.constexpr,
):  # fmt: skip
    """Store one tile of one frame of a view: program (video and view, frame of the clip, tile)."""
    pair, moment = tl.program_id(0), tl.program_id(1)
    tiles = (size + TILE - 1) // TILE
    top, left = tl.program_id(2) // tiles * TILE, tl.program_id(2) % tiles * TILE
    record = whole_ptr + pair * (_RECORD + 2 * length)
    numbers = real_ptr + pair * (_COLOURS + 1 + REACH)
    frame = tl.load(record + _RECORD + moment).to(tl.int64)
    source = frames_ptr + frame * height * width * 3
    source += (tl.load(record + 1) * width + tl.load(record + 2)) * 3
    flip, reach = tl.load(record + 3), tl.load(record + 4)
    grey = _MIDDLE_GREY
    if greys_ptr is not None:
        moments = tl.arange(0, LENGTH)
        greys = tl.load(greys_ptr + pair * length + moments, mask=moments < length, other=0.0)
        grey = tl.sum(greys) / length
    added = tl.load(numbers + _COLOURS - 1) * grey
    rows, columns = top + tl.arange(0, TILE), left + tl.arange(0, TILE)
    view = pair % num_views
    pixel = (rows[:, None] * size + columns[None, :]) * 3
    inside = (rows < size)[:, None] & (columns < size)[None, :]
    clip = tl.load(record).to(tl.int64) * clip_views + view
    target = clips_ptr + (clip * length + moment) * size * size * 3 + pixel
    later = tl.load(record + _RECORD + length + moment)
    again = clips_ptr + ((clip + 1) * length + later) * size * size * 3 + pixel
    for colour in tl.static_range(3):
        matrix = numbers + 3 * colour
        if reach > 0:
            made = _blurred(
                source, width, size, flip, matrix, added, numbers + _COLOURS, reach,
                rows, top, left, columns, REACH, TILE, STEP, WIDE,
            )  # fmt: skip
        else:
            made = _pixels(source, width, size, flip, matrix, added, rows, columns)
        if colour == 0:
            made = (made - red_mean) * red_scale
        elif colour == 1:
            made = (made - green_mean) * green_scale
        else:
            made = (made - blue_mean) * blue_scale
        stored = made.to(clips_ptr.dtype.element_ty)
        tl.store(target + colour, stored, mask=inside)
        if SHUFFLED:
            tl.store(again + colour, stored, mask=inside & (view == num_views - 1))


@triton.jit
def _pixels(source, width, size, flip, matrix, added, rows, columns):
    """Return one colour of pixels [rows, columns] of a crop, mapped; past its end, of the edge."""
    rows, columns = tl.minimum(rows, size - 1), tl.minimum(columns, size - 1)
    columns = tl.where(flip != 0, size - 1 - columns, columns)
    at = source + (rows[:, None] * width + columns[None, :]) * 3
    mixed = tl.load(matrix) * tl.load(at).to(tl.float32)
    mixed += tl.load(matrix + 1) * tl.load(at + 1).to(tl.float32)
    mixed += tl.load(matrix + 2) * tl.load(at + 2).to(tl.float32)
    return tl.minimum(tl.maximum(mixed + added, 0.0), 255.0)


@triton.jit
def _blurred(
    source, width, size, flip, matrix, added, weights, reach, rows, top, left, columns,
    REACH: tl.constexpr, TILE: tl.constexpr, STEP: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Return one colour of a tile [rows, columns], mapped and blurred."""
    around = left - REACH + tl.arange(0, WIDE)
    across = _mirrored(around, size)
    total = tl.zeros([TILE, WIDE], tl.float32)
    for start in range(0, TILE + 2 * REACH, STEP):
        above = top - REACH + start + tl.arange(0, STEP)
        down = _mirrored(above, size)
        part = _pixels(source, width, size, flip, matrix, added, down, across)
        band = _weights(weights, rows[:, None] - above[None, :], reach)
        total = tl.dot(band, part, total, input_precision="tf32x3")
    band = _weights(weights, around[:, None] - columns[None, :], reach)
    return tl.dot(total, band, input_precision="tf32x3")


@triton.jit
def _mirrored(places, size):
    """Return places within 0..size - 1; what reaches beyond a border is mirrored there, once."""
    places = tl.abs(places)
    places = tl.where(places > size - 1, tl.abs(2 * (size - 1) - places), places)
    return tl.minimum(places, size - 1)


@triton.jit
def _weights(weights, distances, reach):
    distances = tl.abs(distances)
    return tl.load(weights + distances, mask=distances <= reach, other=0.0)
