"""What the forward and the backward kernels of the contrastive softmax share; needs triton."""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

import functools
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastdual.kernels.contrastive.problem import NORM_FLOOR, Problem

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
FLOOR = tl.constexpr(NORM_FLOOR)


@triton.jit
def load_labels(labels_ptr, index, count, absent: tl.constexpr):
    """Ids or groups as two int32 halves [BLOCK]; negative and past the end they are `absent`.

    `absent` is negative and another number on either side, so that its high half equals nothing.
    """
    labels = tl.load(labels_ptr + index, mask=index < count, other=-1).to(tl.int64)
    low = tl.where(labels >= 0, labels.to(tl.int32), absent)
    high = tl.where(labels >= 0, (labels >> 32).to(tl.int32), absent)
    return low, high


@triton.jit
def load_ids(
    ids_ptr, index, count, absent: tl.constexpr, id_run, num_ids, LAYOUT: tl.constexpr
):  # fmt: skip
    """`load_labels` of ids, which with a layout (problem.py) are those of the rows' samples."""
    if LAYOUT:
        sample = (index // id_run) % num_ids
        if ids_ptr is not None:
            ids = tl.load(ids_ptr + sample, mask=index < count, other=-1).to(tl.int64)
        else:
            ids = tl.where(index < count, sample, -1).to(tl.int64)
        low = tl.where(ids >= 0, ids.to(tl.int32), absent)
        return low, tl.where(ids >= 0, (ids >> 32).to(tl.int32), absent)
    else:
        return load_labels(ids_ptr, index, count, absent)


@triton.jit
def load_groups(
    groups_ptr, index, count, absent: tl.constexpr, group_run, LAYOUT: tl.constexpr
):  # fmt: skip
    """`load_labels` of groups, where there are any: with a layout they follow from the place."""
    if LAYOUT:
        low = tl.where(index < count, index // group_run, absent)
        return low, tl.where(index < count, 0, absent)
    else:
        return load_labels(groups_ptr, index, count, absent)


@triton.jit
def span_of_other_groups(
    start, stop, own_start, count, group_run, BLOCK_OWN: tl.constexpr, BLOCK: tl.constexpr
):
    """The part of [start, stop), in whole blocks, that can hold rows of other groups than a block.

    A block of rows of the first group alone leaves that out, and so does one of the last: with two
    groups (CLIP's images and texts) that is half of the work.
    """
    group = own_start // group_run
    alone = group == (tl.minimum(own_start + BLOCK_OWN, count) - 1) // group_run
    after_first = tl.where(alone & (group == 0), group_run // BLOCK * BLOCK, start)
    last = (group + 1) * group_run >= count
    before_last = tl.where(alone & last, group * group_run, stop)
    return tl.maximum(start, after_first), tl.minimum(stop, before_last)


@triton.jit
def is_special(
    own_ids, own_groups, other_ids_ptr, other_groups_ptr, start, num_other,
    id_run, num_ids, group_run, LAYOUT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Whether a tile may hold a positive, an ignored pair or the end: 1, or 0 for negatives only.

    Most tiles hold negatives only, and this is all that they pay for the masks. Low halves may be
    equal by chance; `exact_masks` then finds nothing in the tile.
    """
    others = start + tl.arange(0, BLOCK)
    other_ids, ids_high = load_ids(other_ids_ptr, others, num_other, -2, id_run, num_ids, LAYOUT)
    near = own_ids[:, None] == other_ids[None, :]
    if LAYOUT or other_groups_ptr is not None:
        other_groups, groups_high = load_groups(
            other_groups_ptr, others, num_other, -2, group_run, LAYOUT
        )
        near = near | (own_groups[:, None] == other_groups[None, :])
    found = tl.max(tl.max(near.to(tl.int32), 1), 0)
    return tl.where(start + BLOCK > num_other, 1, found)


@triton.jit
def exact_masks(
    own_ids, own_ids_high, own_groups, own_groups_high,
    other_ids_ptr, other_groups_ptr, others, num_other,
    id_run, num_ids, group_run, LAYOUT: tl.constexpr,
):  # fmt: skip
    """Positive pairs and ignored pairs [OWN, OTHER]; those past the end are ignored."""
    ids, ids_high = load_ids(other_ids_ptr, others, num_other, -2, id_run, num_ids, LAYOUT)
    positive = (own_ids[:, None] == ids[None, :]) & (own_ids_high[:, None] == ids_high[None, :])
    ignored = (own_ids[:, None] != own_ids[:, None]) | (others >= num_other)[None, :]
    if LAYOUT or other_groups_ptr is not None:
        groups, groups_high = load_groups(
            other_groups_ptr, others, num_other, -2, group_run, LAYOUT
        )
        ignored = ignored | (
            (own_groups[:, None] == groups[None, :])
            & (own_groups_high[:, None] == groups_high[None, :])
        )
    return positive & ~ignored, ignored


@triton.jit
def load_tile(x_ptr, index, dims, count, D, stride_row, stride_dim):
    offsets = index.to(tl.int64)[:, None] * stride_row + dims.to(tl.int64)[None, :] * stride_dim
    return tl.load(x_ptr + offsets, mask=(index < count)[:, None] & (dims < D)[None, :], other=0.0)


@triton.jit
def similarities(
    own, own_ptr, own_index, num_own, own_stride_row, own_stride_dim,
    other_ptr, other_index, num_other, other_stride_row, other_stride_dim, D,
    SQUARES: tl.constexpr, SINGLE: tl.constexpr, PRECISION: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Dot products [OWN, OTHER], the other side's tile, and if SQUARES its squared lengths [OTHER].

    SINGLE: one tile spans all of D, and `own` is that tile of the own side, loaded once.
    """
    squares = tl.zeros([other_index.shape[0]], tl.float32)
    dims = tl.arange(0, BLOCK_D)
    if SINGLE:
        other = load_tile(
            other_ptr, other_index, dims, num_other, D, other_stride_row, other_stride_dim
        )
        products = tl.dot(own, tl.trans(other), input_precision=PRECISION)
        if SQUARES:
            wide = other.to(tl.float32)
            squares = tl.sum(wide * wide, 1)
    else:
        products = tl.zeros([own_index.shape[0], other_index.shape[0]], tl.float32)
        other = tl.zeros([other_index.shape[0], BLOCK_D], other_ptr.dtype.element_ty)
        for start in range(0, D, BLOCK_D):
            own_part = load_tile(
                own_ptr, own_index, start + dims, num_own, D, own_stride_row, own_stride_dim
            )
            other = load_tile(
                other_ptr, other_index, start + dims, num_other, D,
                other_stride_row, other_stride_dim,
            )  # fmt: skip
            products = tl.dot(own_part, tl.trans(other), products, input_precision=PRECISION)
            if SQUARES:
                wide = other.to(tl.float32)
                squares += tl.sum(wide * wide, 1)
    return products, other, squares


@triton.jit
def base2_scale(temperature_ptr, temperature_value, IS_SCALE: tl.constexpr):
    """log2(e) / temperature; IS_SCALE: what is given as temperature is its inverse."""
    if temperature_ptr is not None:
        temperature = tl.load(temperature_ptr).to(tl.float32)
    else:
        temperature = temperature_value
    if IS_SCALE:
        return LOG2_E * temperature
    else:
        return LOG2_E / temperature


@triton.jit
def length_scale(squares):
    return 1.0 / tl.maximum(tl.sqrt(squares), FLOOR)


@triton.jit
def base2_softplus(x):
    """log2(1 + 2^x) to full relative precision, also where 2^x is far below 1."""
    small = tl.exp2(-tl.abs(x))
    one_plus = 1.0 + small
    # log(1 + e) * e / ((1 + e) - 1) undoes the rounding of 1 + e (Kahan).
    rounded = tl.where(one_plus == 1.0, 1.0, one_plus - 1.0)
    log1p = tl.where(one_plus == 1.0, small * LOG2_E, tl.log2(one_plus) * small / rounded)
    return tl.maximum(x, 0.0) + log1p


class Tile(NamedTuple):
    """Block sizes of a launch, and how it is compiled."""

    own: int  # rows (or candidates) of a program
    other: int  # of the side that it streams over, at a time
    dim: int  # of the embedding, at a time
    num_warps: int
    num_stages: int
    # Of a thread. Without it the assembler spills a few bytes here and there to fit one block more.
    max_registers: int | None = None

    def launch_options(self) -> dict[str, int]:
        limit = {} if self.max_registers is None else {"maxnreg": self.max_registers}
        return limit | {
            "BLOCK_OWN": self.own,
            "BLOCK_OTHER": self.other,
            "BLOCK_D": self.dim,
            "num_warps": self.num_warps,
            "num_stages": self.num_stages,
        }


# Up to so many rows, programs are too few to fill a GPU, and small ones share the work better.
FEW_ROWS = 1024


def is_heavy(problem: Problem, *, metrics: bool = False) -> bool:
    """Whether options keep more numbers of a row in registers than the plain loss does."""
    return metrics or problem.normalize or problem.positives == "mean"


def is_aligned(*sides: Tensor) -> bool:
    """Whether rows are loaded many elements at a time; else each element takes an address."""
    return all(x.shape[1] % 16 == 0 and x.stride(0) % 16 == 0 and x.stride(1) == 1 for x in sides)


def forward_tile(
    dtype: torch.dtype, num_own: int, dim: int, *, heavy: bool, placed: bool, aligned: bool
) -> Tile:
    """Chosen by registers and spills of the compiled kernels: bench/results/kernels_aot.csv.

    `placed`: with a layout, which takes some registers to follow; `aligned`: see is_aligned.
    """
    if not aligned and dtype == torch.float32:
        return Tile(16, 32, min(_tile_dim(dim), 32), 4, 2, 224)
    if not aligned and dim > 16:
        return Tile(32, 32, _tile_dim(dim), 8, 2, 255)
    if dtype == torch.float32:
        # All options beside a whole row of 64 would spill: two steps of 32.
        block_d = min(_tile_dim(dim), 32 if heavy and dim <= 64 else 64)
        return Tile(16, 32, block_d, 4, 2, 224 if heavy and dim <= 32 else None)
    if num_own <= FEW_ROWS or dim > 256:
        limit = (200 if dim <= 128 else 224) if heavy else None
        return Tile(32, 32 if heavy else 64, _tile_dim(dim), 4, 3 if dim <= 128 else 2, limit)
    narrow = heavy or (placed and dim > 128)
    return Tile(128, 32 if narrow else 64, _tile_dim(dim), 8, 3 if dim <= 128 else 2)


def backward_tile(
    dtype: torch.dtype, num_own: int, dim: int, *, heavy: bool, placed: bool, aligned: bool
) -> Tile:
    """As forward_tile; the float32 gradient of the tile's own rows is in registers besides."""
    block_d = _tile_dim(dim)
    if dtype == torch.float32:
        if dim > 128 or (heavy and placed):
            return Tile(16, 16, min(block_d, 64), 4, 2, 128 if aligned else 200)
        return Tile(16, 32, block_d, 4, 2)
    if not aligned and dim > 16:
        return Tile(32 if dim <= 128 else 16, 32, block_d, 8, 2, 255)
    if dim > 256 or (dim <= 128 and num_own <= FEW_ROWS):
        return Tile(32, 32, block_d, 4, 2, 200 if heavy or placed else None)
    if num_own <= FEW_ROWS:
        return Tile(32, 32, block_d, 8, 2, 168 if placed and not heavy else None)
    if dim > 128:
        return Tile(32 if heavy else 64, 32, block_d, 8, 2)
    if block_d <= 32:
        return Tile(64, 32, block_d, 8, 2, 168) if heavy else Tile(128, 64, block_d, 8, 2, 200)
    return Tile(64, 32, block_d, 8, 3) if heavy else Tile(128, 64, block_d, 8, 3)


def _tile_dim(dim: int) -> int:
    """One tile spans D up to 256; beyond, D is taken in steps of 128."""
    return max(16, triton.next_power_of_2(dim)) if dim <= 256 else 128


@functools.cache
def _num_multiprocessors(device: torch.device) -> int:
    """Of the GPU; a small number where kernels are interpreted, so that work is split there too."""
    if device.type != "cuda":
        return 4
    return torch.cuda.get_device_properties(device).multi_processor_count


def split(
    device: torch.device,
    num_blocks: int,
    num_other: int,
    block: int,
    *,
    programs: int,
    min_tiles: int,
) -> tuple[int, int]:
    """Parts that the streamed side is cut into, and how much of it a part has, in whole blocks.

    At most `programs` programs a multiprocessor are aimed at; a problem of many rows has them
    without any cut. A part of fewer than `min_tiles` tiles would not repay its share of the merge.
    """
    tiles = triton.cdiv(num_other, block)
    wanted = max(1, programs * _num_multiprocessors(device) // num_blocks)
    tiles_a_part = max(triton.cdiv(tiles, wanted), min_tiles)
    return triton.cdiv(tiles, tiles_a_part), tiles_a_part * block


def layout_of(problem: Problem) -> dict[str, int | bool]:
    """The layout and how to read the temperature, as arguments of a kernel."""
    id_run, num_ids, group_run = problem.layout or (1, 1, 1)
    return {
        "id_run": id_run,
        "num_ids": num_ids,
        "group_run": group_run,
        "LAYOUT": problem.layout is not None,
        "IS_SCALE": problem.is_scale,
    }


def labels_of(problem: Problem) -> list[Tensor | None]:
    """Ids of rows and candidates, then their groups; kernels take them as contiguous."""
    if problem.query_groups is None or problem.column_groups is None:
        groups: tuple[Tensor | None, Tensor | None] = None, None
    else:
        groups = problem.query_groups, problem.column_groups
    labels = problem.query_ids, problem.column_ids, *groups
    return [label if label is None else label.contiguous() for label in labels]
