"""How a launch of the contrastive softmax is cut into tiles and programs, and its arguments.

It needs triton.
"""

import functools
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.nn import functional as F

from fastdual.kernels.contrastive.problem import Prepared, Problem
from fastdual.kernels.contrastive.triton_shared import Flags, Side, Temperature


class Tile(NamedTuple):
    """Block sizes of a launch, and how it is compiled."""

    own: int  # rows (or candidates) of a program
    other: int  # of the side that it streams over, at a time
    num_warps: int
    num_stages: int

    def options(self, dim: int) -> dict[str, int | bool]:
        """Return the tile as arguments of a launch for rows of that size."""
        return {
            "D": dim,
            "BLOCK_OWN": self.own,
            "BLOCK_OTHER": self.other,
            "BLOCK_D": block_of(dim),
            "num_warps": self.num_warps,
            "num_stages": self.num_stages,
            # Told a limit, the assembler does not spill to fit one block more.
            "maxnreg": 255,
            "enable_fp_fusion": True,
        }


# Up to this many rows, programs are too few to fill a GPU, and small ones share the work better.
FEW_ROWS = 1024


def block_of(dim: int) -> int:
    """Return how much of D a tile spans: all up to 256, beyond that steps of 128."""
    return max(16, triton.next_power_of_2(dim)) if dim <= 256 else 128


def forward_tile(dtype: torch.dtype, num_own: int, dim: int) -> Tile:
    """Return the tile of the forward: the least work per logit that does not spill.

    bench/results/kernels_aot.csv holds what each costs. A third stage takes registers that the
    lowest Triton allowed does not have.
    """
    if dtype == torch.float32:
        return Tile(16, 32, 4, 2)
    if num_own <= FEW_ROWS or dim > 256:
        return Tile(32, 64, 4, 2)
    return Tile(128, 64, 8, 2)


def backward_tile(
    dtype: torch.dtype, num_own: int, dim: int, *, rich: bool, capability: int
) -> Tile:
    """Return the tile of the backward, whose registers also hold the own rows' gradient.

    Args:
        dtype: Of the embeddings.
        num_own: Number of own rows.
        dim: Embedding size D.
        rich: Slopes take more registers: positives="mean", or a weight of each row.
        capability: See backend.capability_of. From 9 on four warps multiply 64 rows at once;
            before, such tiles spill, or have warps that do the same twice.
    """
    if dtype == torch.float32:
        return Tile(16, 16, 4, 2)
    if num_own <= FEW_ROWS or dim > 128 or capability < 9:
        return Tile(32, 32, 4, 2)
    return Tile(64, 32, 4, 2) if rich else Tile(128, 64, 8, 2)


@functools.cache
def _num_multiprocessors(device: torch.device) -> int:
    """Return those of the GPU, or a few where kernels are interpreted, to split work there too."""
    if device.type != "cuda":
        return 4
    return torch.cuda.get_device_properties(device).multi_processor_count


@functools.cache
def split(
    device: torch.device, num_blocks: int, num_other: int, block: int, resident: int
) -> tuple[int, int]:
    """Return the number of parts of the streamed side, and the length of a part in whole blocks.

    The parts are those after which the last program ends first: programs run in waves, and one
    more than a wave holds costs another whole one.

    Args:
        device: Where the launch runs.
        num_blocks: Programs of a launch without a cut.
        num_other: Length of the streamed side.
        block: Of it, at a time.
        resident: Programs that a multiprocessor runs at a time.
    """
    tiles, slots = triton.cdiv(num_other, block), resident * _num_multiprocessors(device)

    def duration(parts: int) -> int:  # in tiles; a part costs some for its start and the merge
        return int(triton.cdiv(num_blocks * parts, slots) * (triton.cdiv(tiles, parts) + 4))

    most = min(max(4, triton.cdiv(slots, num_blocks)), triton.cdiv(tiles, 2))
    length = triton.cdiv(tiles, min(range(1, most + 1), key=duration))
    return triton.cdiv(tiles, length), length * block


def aligned(x: Tensor) -> Tensor:
    """Return x [rows, D], or a copy padded with zeros that can be loaded many numbers at a time."""
    if x.shape[1] % 16 == 0 and x.stride(0) % 16 == 0 and x.stride(1) == 1:
        return x
    return F.pad(x, (0, -x.shape[1] % 16)).contiguous()


def laid_out(problem: Problem) -> Problem:
    """Return the same problem with rows that kernels can load well, and contiguous labels.

    Where that takes copies, each step makes them once.
    """
    changed: dict[str, Any] = {}
    for name, given in zip(problem._fields[:6], problem[:6], strict=True):
        if isinstance(given, Tensor):
            laid = aligned(given) if given.ndim == 2 else given.contiguous()
            if laid is not given:
                changed[name] = laid
    return problem._replace(**changed) if changed else problem


def sides_of(problem: Problem, prepared: Prepared) -> tuple[Side, Side]:
    """Return rows and candidates as kernels take them; one and the same where they are the same.

    The problem is laid out.
    """

    def side(rows: Tensor, ids: Tensor | None, groups: Tensor | None, scale: Tensor) -> Side:
        return Side(rows, rows.stride(0), len(rows), scale if scale.numel() else None, ids, groups)

    query = side(problem.query, problem.query_ids, problem.query_groups, prepared.query_scale)
    if problem.key is None:
        return query, query
    return query, side(problem.key, problem.key_ids, problem.key_groups, prepared.key_scale)


def temperature_of(problem: Problem) -> Temperature:
    """Return the temperature as kernels take it."""
    inverted = int(problem.settings.is_scale)
    return Temperature(problem.temperature, problem.temperature_value, inverted)


def flags_of(prepared: Prepared, *, own_is_query: bool = True) -> Flags | None:
    """Return the flags as seen from the own side; None where places tell."""
    if not prepared.flags.numel():
        return None
    strides = prepared.flags.stride()
    return Flags(prepared.flags, *(strides if own_is_query else strides[::-1]))
