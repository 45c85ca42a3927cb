"""Checks of the shuffle-rank loss's arguments; the rules are those of checks.py."""

import math
from typing import Any

import torch
from torch import Tensor

from fastdual.kernels.checks import (
    INTEGER,
    as_number,
    as_temperature,
    check_floating,
    check_same_device,
    check_same_dtype,
)

MAX_SEGMENTS = 16


def check_segments(x: Tensor, shuffled: Tensor, *, max_dim: int) -> None:
    """Segments [B, S, D], twice: B >= 1, 2 <= S <= 16, 1 <= D <= max_dim."""
    check_floating(x=x, shuffled=shuffled)
    if x.ndim != 3:
        raise ValueError(f"x has shape {list(x.shape)}, must be [B, S, D]")
    if shuffled.shape != x.shape:
        raise ValueError(
            f"shuffled has shape {list(shuffled.shape)} but x has {list(x.shape)}, must be equal"
        )
    batch, segments, dim = x.shape
    if batch < 1:
        raise ValueError(f"x has shape {list(x.shape)}, must have at least one sample")
    if segments == 1:
        raise ValueError(
            "x has S = 1 segment: rank undefined, a match needs other segments to beat; "
            "use S >= 2 or leave the rank loss out"
        )
    if not 2 <= segments <= MAX_SEGMENTS:
        raise ValueError(f"x has S = {segments} segments, must be between 2 and {MAX_SEGMENTS}")
    if not 1 <= dim <= max_dim:
        raise ValueError(f"x has D = {dim}, must be between 1 and {max_dim}")
    check_same_dtype(x=x, shuffled=shuffled)
    check_same_device(x=x, shuffled=shuffled)


def check_permutation(permutation: Tensor, x: Tensor) -> None:
    """Every row of permutation [B, S] orders 0 .. S-1.

    The values are read on a CPU only: on a GPU that would wait for the device, and under
    torch.compile it would break the graph. There a row that is no permutation gives a meaningless
    loss, but no access out of bounds.
    """
    if not isinstance(permutation, Tensor) or permutation.dtype not in INTEGER:
        found = getattr(permutation, "dtype", type(permutation).__name__)
        raise ValueError(f"permutation is of {found}, must be an int64 or int32 tensor")
    batch, segments, _ = x.shape
    if permutation.shape != (batch, segments):
        raise ValueError(
            f"permutation has shape {list(permutation.shape)}, must be [{batch}, {segments}]: "
            "one order of the S segments a sample"
        )
    check_same_device(x=x, permutation=permutation)
    if permutation.device.type != "cpu" or torch.compiler.is_compiling():
        return
    ordered = torch.arange(segments, dtype=permutation.dtype)
    wrong = (permutation.sort(dim=1).values != ordered).any(dim=1)
    if wrong.any():
        row = int(wrong.int().argmax())
        raise ValueError(
            f"permutation[{row}] is {permutation[row].tolist()}, "
            f"must hold each of 0 .. {segments - 1} once"
        )


def as_rank_numbers(temperature: Any, clip: Any, *, prefix: str = "") -> tuple[float, float | None]:
    """Temperature and clip of the shuffle-rank loss as floats; errors name them with `prefix`."""
    if isinstance(temperature, Tensor):
        raise ValueError(f"{prefix}temperature is a tensor, must be a float: it is not learned")
    limit = as_number(clip)
    if clip is not None and (limit is None or not math.isfinite(limit)):
        raise ValueError(f"{prefix}clip is {clip!r}, must be None or a finite number")
    divisor = as_temperature(temperature, f"{prefix}temperature")
    assert isinstance(divisor, float)
    return divisor, limit


def check_rank_tensors(x: Tensor, shuffled: Tensor, permutation: Tensor, *, max_dim: int) -> None:
    """All tensors of shuffle_rank_loss."""
    check_segments(x, shuffled, max_dim=max_dim)
    check_permutation(permutation, x)
