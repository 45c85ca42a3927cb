"""Multi-positive contrastive softmax: NT-Xent, SupCon, CLIP, MoCo and MIL-NCE as one operation.

For rows q_i [N, D] and candidates k_j [M, D], logits l_ij = q_i . k_j / temperature. A candidate
whose id equals the row's is positive (set P), one whose group equals the row's is ignored, the rest
are negative. With A = positives and negatives of row i:

    positives="sum":   loss_i = log sum_A e^l - log sum_P e^l            (MIL-NCE, arXiv:1912.06430)
    positives="mean":  loss_i = mean over P of (log sum_A e^l - l)       (SupCon, arXiv:2004.11362)

Both are InfoNCE (arXiv:1807.03748) where a row has one positive. Not materialised: logits, masks
and probabilities of shape [N, M]. The forward streams over the candidates and keeps a few numbers a
row (streaming.statistics_of), the backward computes the logits again: memory is O((N + M) D).

The op runs Triton kernels on a CUDA device (contrastive_triton.py) and the same steps with torch
operations anywhere else (streaming.py).
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from fastdual.kernels.backend import device_of, refuse_transforms, runs_triton
from fastdual.kernels.checks import (
    as_temperature,
    check_batch_contrast,
    check_choice,
    check_contrast,
)
from fastdual.kernels.contrastive import streaming
from fastdual.kernels.contrastive.problem import Layout, Merged, Partials, Problem
from fastdual.kernels.results import ContrastiveResult

Positives = Literal["sum", "mean"]
Reduction = Literal["mean", "none", "sum"]
Precision = Literal["ieee", "tf32"]

MAX_DIM = 1024


def compute_partials(problem: Problem, *, metrics: bool) -> Partials:
    """What every row gathers from the problem's candidates."""
    if runs_triton(problem.query):
        from fastdual.kernels.contrastive import triton_forward as contrastive_triton

        with device_of(problem.query):
            return contrastive_triton.compute_partials(problem, metrics=metrics)
    return streaming.compute_partials(problem, metrics=metrics)


def merge_partials(fields: Tensor, problem: Problem, *, reduction: str) -> Merged:
    """Loss and statistics from the fields [P, F, N] of all parts of the candidates."""
    if runs_triton(problem.query):
        from fastdual.kernels.contrastive import triton_forward as contrastive_triton

        with device_of(fields):
            return contrastive_triton.merge_partials(
                fields, positives=problem.positives, reduction=reduction, learned=problem.learned
            )
    return streaming.merge_partials(
        fields, positives=problem.positives, reduction=reduction, learned=problem.learned
    )


def compute_gradients(
    problem: Problem,
    partials: Partials,
    statistics: Tensor,
    slope: Tensor,
    upstream: Tensor,
    count: Tensor | None,
    needs: tuple[bool, bool, bool],
    *,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and temperature; see streaming.compute_gradients."""
    arguments = problem, partials, statistics, slope, upstream, count, needs
    if runs_triton(problem.query):
        from fastdual.kernels.contrastive import triton_backward as contrastive_triton_bwd

        with device_of(problem.query):
            return contrastive_triton_bwd.compute_gradients(*arguments, dtype=dtype)
    return streaming.compute_gradients(*arguments, dtype=dtype)


@torch.library.custom_op("fastdual::contrastive_fwd", mutates_args=())
def _contrastive_fwd(
    query: Tensor,
    key: Tensor | None,
    query_ids: Tensor | None,
    key_ids: Tensor | None,
    query_groups: Tensor | None,
    key_groups: Tensor | None,
    temperature: Tensor | None,
    temperature_value: float,
    positives: str,
    normalize: bool,
    precision: str,
    is_scale: bool,
    layout: Sequence[int] | None,
    learned: bool,
    reduction: str,
    metrics: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Fields of Merged, then the scales of Partials."""
    problem = Problem(
        query, key, query_ids, key_ids, query_groups, key_groups,
        temperature, temperature_value, positives, normalize, precision,
        is_scale, None if layout is None else Layout(*layout), learned,
    )  # fmt: skip
    partials = compute_partials(problem, metrics=metrics)
    merged = merge_partials(partials.fields, problem, reduction=reduction)
    return *merged, partials.query_scale, partials.key_scale


@_contrastive_fwd.register_fake
def _(
    query: Tensor,
    key: Tensor | None,
    query_ids: Tensor | None,
    key_ids: Tensor | None,
    query_groups: Tensor | None,
    key_groups: Tensor | None,
    temperature: Tensor | None,
    temperature_value: float,
    positives: str,
    normalize: bool,
    precision: str,
    is_scale: bool,
    layout: Sequence[int] | None,
    learned: bool,
    reduction: str,
    metrics: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    num_rows = query.shape[0]
    dtype = torch.promote_types(query.dtype, torch.float32)
    by_row = (num_rows,) if reduction == "none" else ()
    return (
        query.new_empty(by_row, dtype=dtype),
        query.new_empty((), dtype=dtype),
        query.new_empty((3, num_rows if metrics else 0), dtype=torch.bool),
        query.new_empty((2 if positives == "sum" else 4, num_rows), dtype=dtype),
        query.new_empty(by_row if learned else 0, dtype=dtype),
        query.new_empty(num_rows if normalize else 0, dtype=dtype),
        query.new_empty(0 if key is None or not normalize else key.shape[0], dtype=dtype),
    )


@torch.library.custom_op("fastdual::contrastive_bwd", mutates_args=())
def _contrastive_bwd(
    upstream: Tensor,
    count: Tensor | None,
    statistics: Tensor,
    slope: Tensor,
    query_scale: Tensor,
    key_scale: Tensor,
    query: Tensor,
    key: Tensor | None,
    query_ids: Tensor | None,
    key_ids: Tensor | None,
    query_groups: Tensor | None,
    key_groups: Tensor | None,
    temperature: Tensor | None,
    temperature_value: float,
    positives: str,
    normalize: bool,
    precision: str,
    is_scale: bool,
    layout: Sequence[int] | None,
    needs_query: bool,
    needs_key: bool,
    needs_temperature: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and temperature; [0] for each that is not needed."""
    problem = Problem(
        query, key, query_ids, key_ids, query_groups, key_groups,
        temperature, temperature_value, positives, normalize, precision,
        is_scale, None if layout is None else Layout(*layout),
    )  # fmt: skip
    partials = Partials(statistics.new_empty(0), query_scale, key_scale)
    needs = needs_query, needs_key, needs_temperature
    return compute_gradients(
        problem, partials, statistics, slope, upstream, count, needs, dtype=query.dtype
    )


@_contrastive_bwd.register_fake
def _(
    upstream: Tensor,
    count: Tensor | None,
    statistics: Tensor,
    slope: Tensor,
    query_scale: Tensor,
    key_scale: Tensor,
    query: Tensor,
    key: Tensor | None,
    *others: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    needs_query, needs_key, needs_temperature = others[-3:]
    needs_key = needs_key and key is not None
    return (
        query.new_empty(query.shape if needs_query else (0,)),
        query.new_empty(key.shape if needs_key and key is not None else (0,)),
        statistics.new_empty(() if needs_temperature else (0,)),
    )


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, temperature_value, positives, normalize, precision, is_scale, layout = inputs[:13]
    ctx.learned, reduction, _ = inputs[13:]
    _, count, hits, *saved = output
    ctx.mark_non_differentiable(count, hits, *saved)
    # A sum is not divided by the count.
    saved_count = count if reduction == "mean" else None
    ctx.save_for_backward(saved_count, *saved, *tensors)
    ctx.options = temperature_value, positives, normalize, precision, is_scale, layout
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, upstream: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if upstream is None:
        return (None,) * 16
    needs = *ctx.needs_input_grad[:2], ctx.learned and ctx.needs_input_grad[6]
    saved = ctx.saved_tensors  # read once: under activation checkpointing a second time fails
    grads = _contrastive_bwd(upstream, *saved, *ctx.options, *needs)
    grad_query, grad_key, grad_temperature = (
        grad if needed else None for grad, needed in zip(grads, needs, strict=True)
    )
    if grad_temperature is not None:
        grad_temperature = grad_temperature.to(saved[-1].dtype)
    return grad_query, grad_key, *(None,) * 4, grad_temperature, *(None,) * 9


def _refuse_double_backward(ctx: Any, *_: Tensor) -> None:
    raise RuntimeError(
        "contrastive_loss has no second derivative: do not call backward with create_graph=True, "
        "or use backend='eager' (fastdual.kernels.reference.contrastive_loss), which has"
    )


torch.library.register_autograd(
    "fastdual::contrastive_fwd", _backward, setup_context=_save_for_backward
)
torch.library.register_autograd("fastdual::contrastive_bwd", _refuse_double_backward)


def make_problem(
    query: Tensor,
    key: Tensor,
    query_ids: Tensor,
    key_ids: Tensor,
    query_groups: Tensor | None,
    key_groups: Tensor | None,
    temperature: float | Tensor,
    positives: str,
    normalize: bool,
    precision: str,
) -> Problem:
    """Check all arguments of `contrastive_loss` and bind them.

    Raises:
        ValueError: An argument does not fit; the message names it, its value and the rule.
    """
    temperature = as_temperature(temperature)
    check_contrast(
        query, key, query_ids, key_ids, query_groups, key_groups, temperature, positives,
        max_dim=MAX_DIM,
    )  # fmt: skip
    check_choice("precision", precision, ("ieee", "tf32"))
    symmetric = key is query and key_ids is query_ids and key_groups is query_groups
    return Problem(
        query,
        None if symmetric else key,
        query_ids,
        None if symmetric else key_ids,
        query_groups,
        None if symmetric else key_groups,
        *_split_temperature(temperature),
        positives,
        normalize,
        precision,
        learned=_is_learned(temperature),
    )


def make_batch_problem(
    rows: Tensor,
    ids: Tensor | None,
    layout: Layout,
    temperature: float | Tensor,
    positives: str,
    normalize: bool,
    precision: str,
    *,
    is_scale: bool,
) -> Problem:
    """Check the arguments of a batch against itself whose groups follow from its layout; bind them.

    Args:
        rows: [N, D] embeddings, as for `contrastive_loss`, and so are all arguments not named here.
        ids: [num_ids] int64 or int32 id of each sample; None: all samples are different.
        layout: Which row is of which sample and group.
        is_scale: `temperature` is its own inverse, what the dot products are multiplied by.

    Raises:
        ValueError: An argument does not fit; the message names it, its value and the rule.
    """
    temperature = as_temperature(temperature)
    check_batch_contrast(rows, ids, layout, temperature, positives, max_dim=MAX_DIM)
    check_choice("precision", precision, ("ieee", "tf32"))
    return Problem(
        rows, None, ids, None, None, None, *_split_temperature(temperature),
        positives, normalize, precision, is_scale, layout, _is_learned(temperature),
    )  # fmt: skip


def _split_temperature(temperature: float | Tensor) -> tuple[Tensor | None, float]:
    """The two fields of Problem that hold it."""
    return (temperature, 1.0) if isinstance(temperature, Tensor) else (None, temperature)


def _is_learned(temperature: float | Tensor) -> bool:
    """Whether a gradient may be asked for. Told to the op, which sees no `requires_grad` itself."""
    wants = isinstance(temperature, Tensor) and temperature.requires_grad
    return wants and torch.is_grad_enabled()


def run(problem: Problem, *, reduction: str, metrics: bool) -> Merged:
    """The differentiable op on a checked problem."""
    refuse_transforms(problem.query, problem.key, problem.temperature)
    check_choice("reduction", reduction, ("mean", "none", "sum"))
    return Merged(*_contrastive_fwd(*problem, reduction, metrics)[:5])


def contrastive_loss(
    query: Tensor,
    key: Tensor,
    query_ids: Tensor,
    key_ids: Tensor,
    *,
    query_groups: Tensor | None = None,
    key_groups: Tensor | None = None,
    temperature: float | Tensor,
    positives: Positives = "sum",
    reduction: Reduction = "mean",
    normalize: bool = False,
    precision: Precision = "ieee",
) -> Tensor:
    """Multi-positive contrastive softmax of N rows against M candidates.

    Give the same tensors as query and key (ids and groups too) for a batch against itself: the
    backward then takes half the products. A batch against itself nearly always needs groups, for a
    row has its own id: with `arange(N)` as the groups of both, only the row itself is left out.

    Args:
        query: [N, D] rows, D <= 1024, of any strides; float32, float16 or bfloat16 (float64 is
            streamed, without kernels). Under autocast nothing is cast: sums are float32 whatever
            the inputs are.
        key: [M, D] candidates of the same dtype.
        query_ids: [N] int64 or int32.
        key_ids: [M]. A candidate is positive where its id equals the row's; a negative id (an entry
            of a queue, say) is never positive, not even for a row of that id.
        query_groups: [N] int64 or int32, or None: nothing is ignored.
        key_groups: [M]. A candidate is ignored where its group equals the row's, positive or not; a
            negative group is never equal.
        temperature: Softmax divisor: a number above 0, or a 0-d tensor, which gets a gradient. The
            value of a tensor is not checked, for that would wait for the device.
        positives: How several positives count, see the module's docstring.
        reduction: "mean" over the rows that have a positive (0 if none has), "sum", or "none" for
            [N]. A row without a positive has loss 0 and no gradient.
        normalize: L2-normalise the rows of query and key first, in the same pass.
        precision: Of float32 products on a GPU: "ieee", or "tf32" for tensor cores and 10-bit
            mantissas.

    Returns:
        Loss, float32 (float64 for float64 inputs); differentiable once in query, key and
        temperature.

    Raises:
        ValueError: An argument does not fit; the message names it, its value and the rule.
    """
    problem = make_problem(
        query, key, query_ids, key_ids, query_groups, key_groups,
        temperature, positives, normalize, precision,
    )  # fmt: skip
    return run(problem, reduction=reduction, metrics=False).loss


def contrastive_loss_with_metrics(
    query: Tensor,
    key: Tensor,
    query_ids: Tensor,
    key_ids: Tensor,
    *,
    query_groups: Tensor | None = None,
    key_groups: Tensor | None = None,
    temperature: float | Tensor,
    positives: Positives = "sum",
    reduction: Reduction = "mean",
    normalize: bool = False,
    precision: Precision = "ieee",
) -> ContrastiveResult:
    """`contrastive_loss`, and per row whether its best positive is among the first 1 and 5.

    The forward keeps the five best negatives of each row as it streams: no second pass over the
    logits.
    """
    problem = make_problem(
        query, key, query_ids, key_ids, query_groups, key_groups,
        temperature, positives, normalize, precision,
    )  # fmt: skip
    merged = run(problem, reduction=reduction, metrics=True)
    return ContrastiveResult(merged.loss, *merged.hits.unbind())
