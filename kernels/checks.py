"""Checks of arguments, shared by all losses: each raises a ValueError that names the argument, its
value and the rule.

They look at shapes, dtypes, devices and plain Python numbers, which torch.compile folds away, and
not at the values of tensors: that would block until the device is done. The one exception,
check_permutation, reads values on a CPU only.

Shape letters: N rows, M candidates, B samples, S segments, D embedding size.
"""

import math
import numbers
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
INTEGER = (torch.int64, torch.int32)
MAX_SEGMENTS = 16


def check_floating(**tensors: Tensor) -> None:
    """Check that embeddings are dense tensors of float32, float16, bfloat16 or float64."""
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name} is a {type(tensor).__name__}, must be a tensor")
        if tensor.dtype not in FLOATING:
            raise ValueError(
                f"{name} has dtype {tensor.dtype}, must be float32, float16, bfloat16 or float64"
            )
        if tensor.layout != torch.strided:
            raise ValueError(f"{name} has layout {tensor.layout}, must be dense")


def check_same_device(**arguments: Any) -> None:
    """Check that all tensors among the arguments lie on one device."""
    given = [(name, value) for name, value in arguments.items() if isinstance(value, Tensor)]
    (first_name, first), *others = given
    for name, tensor in others:
        if tensor.device != first.device:
            raise ValueError(
                f"{name} is on {tensor.device} but {first_name} is on {first.device}, "
                "must be on one device"
            )


def check_same_dtype(**tensors: Tensor) -> None:
    """Check that all tensors have one dtype."""
    (first_name, first), *others = tensors.items()
    for name, tensor in others:
        if tensor.dtype != first.dtype:
            raise ValueError(
                f"{name} has dtype {tensor.dtype} but {first_name} has {first.dtype}, must be equal"
            )


def check_ids(name: str, ids: Tensor, length: int, of: str) -> None:
    """Check that `ids` holds one int64 or int32 id per row of the embeddings named `of`."""
    if not isinstance(ids, Tensor):
        raise ValueError(f"{name} is a {type(ids).__name__}, must be an int64 or int32 tensor")
    if ids.dtype not in INTEGER:
        raise ValueError(f"{name} has dtype {ids.dtype}, must be int64 or int32")
    if ids.shape != (length,):
        raise ValueError(
            f"{name} has shape {list(ids.shape)}, must be [{length}]: one id per row of {of}"
        )


def as_number(value: Any) -> float | None:
    """Return any real number as a float, and None for all else, True and False included."""
    if not isinstance(value, (float, int, Tensor)) and getattr(value, "shape", None) == ():
        value = value.item()  # a NumPy number; NumPy is not imported for it
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def as_temperature(value: Any, name: str = "temperature") -> float | Tensor:
    """Return a finite number above 0 as a float, and a 0-d floating tensor as it is, unread.

    Args:
        value: What the caller gave as temperature.
        name: What the error calls it.
    """
    if isinstance(value, Tensor):
        if value.ndim != 0 or not value.is_floating_point():
            raise ValueError(
                f"{name} is a tensor of shape {list(value.shape)} and dtype {value.dtype}, "
                "must be a float or a 0-d floating-point tensor"
            )
        return value
    number = as_number(value)
    if number is None or not 0 < number < math.inf:
        raise ValueError(f"{name} is {value!r}, must be a finite number above 0")
    return number


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Check that `value` is one of a few words."""
    options = tuple(choices)
    if value not in options:
        words = ", ".join(repr(str(option)) for option in options)
        raise ValueError(f"{name} is {value!r}, must be one of {words}")


def check_rows(name: str, rows: Tensor) -> None:
    """Check that embeddings are [rows, D] with at least one row and D >= 1."""
    check_floating(**{name: rows})
    if rows.ndim != 2:
        raise ValueError(
            f"{name} has shape {list(rows.shape)}, must be [rows, D]: "
            "flatten views and segments first"
        )
    if rows.shape[0] < 1:
        raise ValueError(f"{name} has shape {list(rows.shape)}, must have at least one row")
    _check_dim(name, rows)


def check_views(axes: str, **views: Tensor) -> None:
    """Check that embeddings have one shape without an empty axis, one dtype and one device.

    Args:
        axes: The shape as text, such as "[B, S, D]"; D >= 1.
        **views: The embeddings.
    """
    check_floating(**views)
    (first_name, first), *others = views.items()
    if first.ndim != axes.count(",") + 1:
        raise ValueError(f"{first_name} has shape {list(first.shape)}, must be {axes}")
    for name, view in others:
        if view.shape != first.shape:
            raise ValueError(
                f"{name} has shape {list(view.shape)} but {first_name} has {list(first.shape)}, "
                "must be equal"
            )
    _check_dim(first_name, first)
    if 0 in first.shape:
        raise ValueError(f"{first_name} has shape {list(first.shape)}, no axis may be empty")
    check_same_dtype(**views)
    check_same_device(**views)


def check_contrast(
    query: Tensor,
    key: Tensor,
    ids: tuple[Tensor, Tensor],
    groups: tuple[Tensor | None, Tensor | None],
    temperature: float | Tensor,
) -> None:
    """Check all tensors of a contrastive loss.

    Args:
        query: [N, D] rows.
        key: [M, D] candidates.
        ids: [N] and [M].
        groups: [N] and [M], or None twice.
        temperature: What as_temperature returned.
    """
    check_rows("query", query)
    check_rows("key", key)
    if query.shape[1] != key.shape[1]:
        raise ValueError(
            f"key has D = {key.shape[1]} but query has D = {query.shape[1]}, must be equal"
        )
    check_same_dtype(query=query, key=key)
    labels = {"query_ids": ids[0], "key_ids": ids[1]}
    if groups[0] is not None and groups[1] is not None:
        labels |= {"query_groups": groups[0], "key_groups": groups[1]}
    elif groups[0] is not groups[1]:
        missing = "query_groups" if groups[0] is None else "key_groups"
        raise ValueError(f"{missing} is None, must be given where the other side's groups are")
    for name, label in labels.items():
        side, of = (query, "query") if name.startswith("query") else (key, "key")
        check_ids(name, label, side.shape[0], of)
    check_same_device(query=query, key=key, **labels, temperature=temperature)


def check_segments(x: Tensor, shuffled: Tensor) -> None:
    """Check the segments [B, S, D] of two clips: B >= 1, 2 <= S <= MAX_SEGMENTS, D >= 1."""
    check_views("[B, S, D]", x=x, shuffled=shuffled)
    segments = x.shape[1]
    if segments == 1:
        raise ValueError(
            "x has S = 1 segment: rank undefined, a match needs other segments to beat; "
            "use S >= 2 or leave the rank loss out"
        )
    if not 2 <= segments <= MAX_SEGMENTS:
        raise ValueError(f"x has S = {segments} segments, must be between 2 and {MAX_SEGMENTS}")


def check_permutation(permutation: Tensor, x: Tensor) -> None:
    """Check that every row of a permutation [B, S] orders the segments 0 .. S-1 of x [B, S, D].

    The values are read on a CPU only: on a GPU that would block until the device is done, and under
    torch.compile it would break the graph. A row that is no permutation then gives a meaningless
    loss, but no access out of bounds.
    """
    if not isinstance(permutation, Tensor) or permutation.dtype not in INTEGER:
        found = getattr(permutation, "dtype", type(permutation).__name__)
        raise ValueError(f"permutation is of {found}, must be an int64 or int32 tensor")
    batch, segments, _ = x.shape
    if permutation.shape != (batch, segments):
        raise ValueError(
            f"permutation has shape {list(permutation.shape)}, must be [{batch}, {segments}]: "
            "one order of the S segments per sample"
        )
    check_same_device(x=x, permutation=permutation)
    if permutation.device.type != "cpu" or torch.compiler.is_compiling():
        return
    ordered = torch.arange(segments, dtype=permutation.dtype, device=permutation.device)
    wrong = (permutation.sort(dim=1).values != ordered).any(dim=1)
    if wrong.any():
        row = int(wrong.int().argmax())
        raise ValueError(
            f"permutation[{row}] is {permutation[row].tolist()}, "
            f"must hold each of 0 .. {segments - 1} once"
        )


def as_rank_numbers(temperature: Any, clip: Any, *, prefix: str = "") -> tuple[float, float | None]:
    """Return temperature and clip of the shuffle-rank loss as floats.

    Args:
        temperature: A finite number above 0.
        clip: A finite number, or None.
        prefix: What errors put before the two names.
    """
    if isinstance(temperature, Tensor):
        raise ValueError(f"{prefix}temperature is a tensor, must be a float: it is not learned")
    limit = as_number(clip)
    if clip is not None and (limit is None or not math.isfinite(limit)):
        raise ValueError(f"{prefix}clip is {clip!r}, must be None or a finite number")
    divisor = as_temperature(temperature, f"{prefix}temperature")
    assert isinstance(divisor, float)
    return divisor, limit


def as_weight(value: Any, name: str) -> float:
    """Return the weight of a loss as a float; it must be finite, and 0 or more."""
    number = None if isinstance(value, Tensor) else as_number(value)
    if number is None or not 0 <= number < math.inf:
        raise ValueError(f"{name} is {value!r}, must be a finite number, 0 or more")
    return number


def _check_dim(name: str, x: Tensor) -> None:
    if x.shape[-1] < 1:
        raise ValueError(f"{name} has D = {x.shape[-1]}, must be 1 or more")
