"""Checks of arguments, shared by every loss. Each error names the argument, its value and the rule.

None of them reads a tensor's *values*: that would wait for the device. They look at shapes, dtypes,
devices and plain Python numbers only, so torch.compile folds them away.
"""

import math
import numbers
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fastdual.kernels.contrastive.problem import Layout

FLOATING = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
INTEGER = (torch.int64, torch.int32)


def check_floating(**tensors: Tensor) -> None:
    """Embeddings are dense tensors of float32, float16, bfloat16 or float64."""
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
    """All tensors among the arguments lie on one device."""
    given = [(name, value) for name, value in arguments.items() if isinstance(value, Tensor)]
    (first_name, first), *others = given
    for name, tensor in others:
        if tensor.device != first.device:
            raise ValueError(
                f"{name} is on {tensor.device} but {first_name} is on {first.device}, "
                "must be on one device"
            )


def check_same_dtype(**tensors: Tensor) -> None:
    """All tensors given have one dtype."""
    (first_name, first), *others = tensors.items()
    for name, tensor in others:
        if tensor.dtype != first.dtype:
            raise ValueError(
                f"{name} has dtype {tensor.dtype} but {first_name} has {first.dtype}, must be equal"
            )


def check_ids(name: str, ids: Tensor, length: int, of: str) -> None:
    """One int64 or int32 id for each row of the embeddings called `of`."""
    if not isinstance(ids, Tensor):
        raise ValueError(f"{name} is a {type(ids).__name__}, must be an int64 or int32 tensor")
    if ids.dtype not in INTEGER:
        raise ValueError(f"{name} has dtype {ids.dtype}, must be int64 or int32")
    if ids.shape != (length,):
        raise ValueError(
            f"{name} has shape {list(ids.shape)}, must be [{length}]: one id a row of {of}"
        )


def as_number(value: Any) -> float | None:
    """Any real number as a float; None for all else, True and False included."""
    if not isinstance(value, (float, int, Tensor)) and getattr(value, "shape", None) == ():
        value = value.item()  # numpy's, which is not imported for it
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def as_temperature(value: Any, name: str = "temperature") -> float | Tensor:
    """A finite number above 0 as a float, or a 0-d floating tensor, whose value is not read."""
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
    """A word out of a short list."""
    options = tuple(map(str, choices))
    if value not in options:
        raise ValueError(f"{name} is {value!r}, must be one of {', '.join(map(repr, options))}")


def check_rows(name: str, rows: Tensor, *, max_dim: int) -> None:
    """Embeddings [rows, D] with at least one row and D up to max_dim."""
    check_floating(**{name: rows})
    if rows.ndim != 2:
        raise ValueError(
            f"{name} has shape {list(rows.shape)}, must be [rows, D]: "
            "flatten views and segments first"
        )
    if rows.shape[0] < 1:
        raise ValueError(f"{name} has shape {list(rows.shape)}, must have at least one row")
    if not 1 <= rows.shape[1] <= max_dim:
        raise ValueError(f"{name} has D = {rows.shape[1]}, must be between 1 and {max_dim}")


def check_views(axes: str, *, max_dim: int, **views: Tensor) -> None:
    """Embeddings of one shape, written like "[B, S, D]" in `axes`, of one dtype and one device.

    No axis is empty.
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
    if not 1 <= first.shape[-1] <= max_dim:
        raise ValueError(f"{first_name} has D = {first.shape[-1]}, must be between 1 and {max_dim}")
    if 0 in first.shape:
        raise ValueError(f"{first_name} has shape {list(first.shape)}, no axis may be empty")
    check_same_dtype(**views)
    check_same_device(**views)


def check_pair(query: Tensor, key: Tensor, *, max_dim: int) -> None:
    """Query [N, D] and key [M, D]: same D, at least one row each, one dtype, one device."""
    check_rows("query", query, max_dim=max_dim)
    check_rows("key", key, max_dim=max_dim)
    if query.shape[1] != key.shape[1]:
        raise ValueError(
            f"key has D = {key.shape[1]} but query has D = {query.shape[1]}, must be equal"
        )
    check_same_dtype(query=query, key=key)
    check_same_device(query=query, key=key)


def check_batch_contrast(
    rows: Tensor,
    ids: Tensor | None,
    layout: Layout,
    temperature: float | Tensor,
    positives: str,
    *,
    max_dim: int,
) -> None:
    """All tensors of a contrast of a batch with itself, and the layout of its rows."""
    check_rows("rows", rows, max_dim=max_dim)
    num_rows = rows.shape[0]
    samples_run = layout.id_run * layout.num_ids
    for name, run in (("id_run * num_ids", samples_run), ("group_run", layout.group_run)):
        if run < 1 or num_rows % run:
            raise ValueError(f"{name} is {run}, must divide the {num_rows} rows")
    if ids is not None:
        check_ids("ids", ids, layout.num_ids, "the samples")
    check_choice("positives", positives, ("sum", "mean"))
    check_same_device(rows=rows, ids=ids, temperature=temperature)


def check_contrast(
    query: Tensor,
    key: Tensor,
    query_ids: Tensor,
    key_ids: Tensor,
    query_groups: Tensor | None,
    key_groups: Tensor | None,
    temperature: float | Tensor,
    positives: str,
    *,
    max_dim: int,
) -> None:
    """All tensors of a contrastive loss, and how it treats several positives."""
    check_pair(query, key, max_dim=max_dim)
    check_ids("query_ids", query_ids, query.shape[0], "query")
    check_ids("key_ids", key_ids, key.shape[0], "key")
    if (query_groups is None) != (key_groups is None):
        missing = "query_groups" if query_groups is None else "key_groups"
        raise ValueError(f"{missing} is None, must be given where the other side's groups are")
    if query_groups is not None and key_groups is not None:
        check_ids("query_groups", query_groups, query.shape[0], "query")
        check_ids("key_groups", key_groups, key.shape[0], "key")
    check_choice("positives", positives, ("sum", "mean"))
    check_same_device(
        query=query,
        query_ids=query_ids,
        key_ids=key_ids,
        query_groups=query_groups,
        key_groups=key_groups,
        temperature=temperature,
    )
