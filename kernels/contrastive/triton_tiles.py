"""How a launch of the contrastive softmax is cut into tiles and programs; needs triton."""

import functools
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from fastdual.kernels.contrastive.problem import Problem, Settings


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
        """Return the tile as arguments of a launch."""
        limit = {} if self.max_registers is None else {"maxnreg": self.max_registers}
        return limit | {
            "BLOCK_OWN": self.own,
            "BLOCK_OTHER": self.other,
            "BLOCK_D": self.dim,
            "num_warps": self.num_warps,
            "num_stages": self.num_stages,
        }


# Up to this many rows, programs are too few to fill a GPU, and small ones share the work better.
FEW_ROWS = 1024


def is_heavy(settings: Settings, *, metrics: bool = False) -> bool:
    """Return whether settings keep more numbers per row in registers than the plain loss does."""
    return metrics or settings.normalize or settings.positives == "mean"


def is_aligned(*sides: Tensor) -> bool:
    """Return whether rows are loaded many elements at a time; else each element has an address."""
    return all(x.shape[1] % 16 == 0 and x.stride(0) % 16 == 0 and x.stride(1) == 1 for x in sides)


def forward_tile(
    dtype: torch.dtype, num_own: int, dim: int, *, heavy: bool, placed: bool, aligned: bool
) -> Tile:
    """Return the tile of the forward, chosen by registers and spills of the compiled kernels.

    bench/results/kernels_aot.csv holds those.

    Args:
        dtype: Of the embeddings.
        num_own: Number of rows N.
        dim: Embedding size D.
        heavy: See is_heavy.
        placed: With a layout, which takes some registers to follow.
        aligned: See is_aligned.
    """
    if not aligned and dtype == torch.float32:
        return Tile(16, 16, min(_tile_dim(dim), 32), 4, 2, 255)
    if not aligned and dim > 16:
        return Tile(32, 32, _tile_dim(dim), 8, 2, 255)
    if dtype == torch.float32:
        # All options beside a step of 64 would spill.
        block_d = min(_tile_dim(dim), 32 if heavy else 64)
        return Tile(16, 32, block_d, 4, 2, 255 if heavy else None)
    if num_own <= FEW_ROWS or dim > 256:
        limit = (200 if dim <= 128 else 255) if heavy else None
        return Tile(32, 32 if heavy else 64, _tile_dim(dim), 4, 3 if dim <= 128 else 2, limit)
    own = 64 if heavy and not placed and dim > 128 else 128
    limit = 168 if placed and not heavy and dim <= 32 else None
    stages = 3 if dim <= 128 else 2
    return Tile(own, 32 if heavy or placed else 64, _tile_dim(dim), 8, stages, limit)


def backward_tile(
    dtype: torch.dtype, num_own: int, dim: int, *, heavy: bool, placed: bool, aligned: bool
) -> Tile:
    """Return the tile of the backward; arguments as for forward_tile.

    Registers also hold the float32 gradient of the tile's own rows.
    """
    block_d = _tile_dim(dim)
    if dtype == torch.float32:
        if dim > 128 or (heavy and placed):
            return Tile(16, 16, min(block_d, 64), 4, 2, 128 if aligned else 200)
        if heavy:
            return Tile(16, 16, block_d, 4, 2, 128)
        return Tile(16, 32, block_d, 4, 2, 128 if placed else None)
    if not aligned and dim > 16:
        return Tile(16, 32, block_d, 8, 2, 255)
    if dim > 256 or (dim <= 128 and num_own <= FEW_ROWS):
        return Tile(32, 32, block_d, 4, 2, 200 if heavy or placed else None)
    if num_own <= FEW_ROWS:
        return Tile(32, 32, block_d, 8, 2, None if heavy else 168)
    if dim > 128:
        return Tile(32 if heavy else 64, 32, block_d, 8, 2)
    if block_d <= 32:
        return Tile(64, 32, block_d, 8, 2, 168) if heavy else Tile(128, 64, block_d, 8, 2, 200)
    if heavy:
        return Tile(64, 32, block_d, 8, 3, 255 if block_d == 128 else None)
    return Tile(128, 64, block_d, 8, 3)


def _tile_dim(dim: int) -> int:
    """Return how much of D a tile spans: all up to 256, beyond that steps of 128."""
    return max(16, triton.next_power_of_2(dim)) if dim <= 256 else 128


@functools.cache
def _num_multiprocessors(device: torch.device) -> int:
    """Return those of the GPU, or a few where kernels are interpreted, to split work there too."""
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
    """Return the number of parts of the streamed side, and the length of a part in whole blocks.

    Args:
        device: Where the launch runs.
        num_blocks: Programs of a launch without a cut.
        num_other: Length of the streamed side.
        block: Of it, at a time.
        programs: How many programs per multiprocessor are aimed at, at most; a problem of many rows
            has them without any cut.
        min_tiles: A part of fewer tiles would not repay its share of the merge.
    """
    tiles = triton.cdiv(num_other, block)
    wanted = max(1, programs * _num_multiprocessors(device) // num_blocks)
    tiles_a_part = max(triton.cdiv(tiles, wanted), min_tiles)
    return triton.cdiv(tiles, tiles_a_part), tiles_a_part * block


def layout_of(problem: Problem) -> dict[str, int | bool]:
    """Return the layout and how the temperature is read, as arguments of a kernel."""
    id_run, num_ids, group_run = problem.settings.layout or (1, 1, 1)
    return {
        "id_run": id_run,
        "num_ids": num_ids,
        "group_run": group_run,
        "LAYOUT": problem.settings.layout is not None,
        "IS_SCALE": problem.settings.is_scale,
    }


def labels_of(problem: Problem) -> list[Tensor | None]:
    """Return ids of rows and candidates, then their groups, contiguous as kernels take them."""
    if problem.query_groups is None or problem.column_groups is None:
        groups: tuple[Tensor | None, Tensor | None] = None, None
    else:
        groups = problem.query_groups, problem.column_groups
    labels = problem.query_ids, problem.column_ids, *groups
    return [label if label is None else label.contiguous() for label in labels]
