"""The contrastive softmax as two torch ops, forward and backward: loss.py holds the formula.

The logits, masks and probabilities of shape [N, M] are not materialised. The forward streams over
the candidates and keeps a few numbers per row (streaming.statistics_of), and the backward computes
the logits again: memory is O((N + M) D). The ops run Triton kernels where they can (triton_*.py),
and the same steps as torch operations elsewhere (streaming.py).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from fastdual.kernels.backend import device_of, refuse_transforms, runs_triton
from fastdual.kernels.contrastive.problem import (
    Gradients,
    Merged,
    Needs,
    Partials,
    Prepared,
    Problem,
    Saved,
    Settings,
    flags_shape,
)


def run(problem: Problem) -> Merged:
    """Return the loss of a problem, differentiable once in query, key and temperature.

    Raises:
        RuntimeError: Under torch.func, or in forward mode.
    """
    refuse_transforms(problem.query, problem.key, problem.temperature)
    return Merged(*_contrastive_fwd(*problem[:-1], problem.settings.encode())[:5])


class Steps(Protocol):
    """What an op is made of: streaming.py says what each step returns."""

    def compute_partials(self, problem: Problem) -> Partials:
        """Gather what each row needs of the candidates of the problem."""

    def count_beaten(self, problem: Problem, prepared: Prepared, fields: Tensor) -> Tensor:
        """Count the negatives of the problem above the best positive of each row."""

    def merge_partials(self, problem: Problem, fields: Tensor, counts: Tensor | None) -> Merged:
        """Merge the fields [P, F, N] and counts [P, N] of all parts of the candidates."""

    def compute_gradients(
        self, problem: Problem, saved: Saved, upstream: Tensor, needs: Needs, *, dtype: torch.dtype
    ) -> Gradients:
        """Compute the gradients of query, key and temperature."""


@contextmanager
def steps_on(x: Tensor) -> Iterator[Steps]:
    """Return the steps that work on tensors like `x`, to be taken on the device of `x`."""
    steps: Any
    if runs_triton(x):
        from fastdual.kernels.contrastive import triton_steps as steps
    else:
        from fastdual.kernels.contrastive import streaming as steps
    with device_of(x):
        yield steps


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
    settings: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the fields of Merged, then those of Prepared."""
    problem = Problem(
        query, key, query_ids, key_ids, query_groups, key_groups,
        temperature, temperature_value, Settings.decode(settings),
    )  # fmt: skip
    with steps_on(query) as steps:
        fields, prepared = steps.compute_partials(problem)
        counts = None
        if problem.settings.metrics:
            counts = steps.count_beaten(problem, prepared, fields)
        return *steps.merge_partials(problem, fields, counts), *prepared


@_contrastive_fwd.register_fake
def _(
    query: Tensor, key: Tensor | None, query_ids: Tensor | None, *others: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    settings = Settings.decode(others[-1])
    num_rows = query.shape[0]
    num_columns = num_rows if key is None else key.shape[0]
    dtype = torch.promote_types(query.dtype, torch.float32)
    by_row = (num_rows,) if settings.reduction == "none" else ()
    num_key_scales = 0 if key is None or not settings.normalize else num_columns
    by_place = not runs_triton(query) or query_ids is None
    num_flags = flags_shape(num_rows, num_columns, by_place=by_place)
    return (
        query.new_empty(by_row, dtype=dtype),
        query.new_empty((), dtype=dtype),
        query.new_empty((3, num_rows if settings.metrics else 0), dtype=torch.bool),
        query.new_empty((2 if settings.positives == "sum" else 4, num_rows), dtype=dtype),
        query.new_empty(by_row if settings.learned else 0, dtype=dtype),
        query.new_empty(num_rows if settings.normalize else 0, dtype=dtype),
        query.new_empty(num_key_scales, dtype=dtype),
        query.new_empty(num_flags, dtype=torch.int8),
    )


@torch.library.custom_op("fastdual::contrastive_bwd", mutates_args=())
def _contrastive_bwd(
    upstream: Tensor,
    saved: Sequence[Tensor],
    needs: Sequence[bool],
    query: Tensor,
    key: Tensor | None,
    labels: Sequence[Tensor | None],
    temperature: Tensor | None,
    temperature_value: float,
    settings: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and temperature; [0] for each that is not needed."""
    query_ids, key_ids, query_groups, key_groups = labels
    problem = Problem(
        query, key, query_ids, key_ids, query_groups, key_groups,
        temperature, temperature_value, Settings.decode(settings),
    )  # fmt: skip
    needs_query, needs_key, needs_temperature = needs
    with steps_on(query) as steps:
        return steps.compute_gradients(
            problem, Saved(saved[0], saved[1], saved[2], Prepared(*saved[3:])), upstream,
            (needs_query, needs_key, needs_temperature), dtype=query.dtype,
        )  # fmt: skip


@_contrastive_bwd.register_fake
def _(
    upstream: Tensor,
    saved: Sequence[Tensor],
    needs: Sequence[bool],
    query: Tensor,
    key: Tensor | None,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    needs_query, needs_key, needs_temperature = needs
    return (
        query.new_empty(query.shape if needs_query else (0,)),
        query.new_empty((0,) if key is None or not needs_key else key.shape),
        saved[0].new_empty(() if needs_temperature else (0,)),
    )


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.temperature_value, ctx.settings = inputs
    _, num_valid, hits, *others = output
    ctx.mark_non_differentiable(num_valid, hits, *others)
    ctx.save_for_backward(*tensors, num_valid, *others)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, upstream: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if upstream is None:
        return (None,) * 9
    # Read once: under activation checkpointing a second time fails.
    query, key, *labels, temperature = (saved := ctx.saved_tensors)[:7]
    learned = Settings.decode(ctx.settings).learned
    needs = [*ctx.needs_input_grad[:2], learned and ctx.needs_input_grad[6]]
    grads = _contrastive_bwd(
        upstream, saved[7:], needs, query, key, labels, temperature,
        ctx.temperature_value, ctx.settings,
    )  # fmt: skip
    grad_query, grad_key, grad_temperature = (
        grad if needed else None for grad, needed in zip(grads, needs, strict=True)
    )
    if grad_temperature is not None:
        grad_temperature = grad_temperature.to(temperature.dtype)
    return grad_query, grad_key, None, None, None, None, grad_temperature, None, None


def _refuse_double_backward(ctx: Any, *_: Tensor) -> None:
    raise RuntimeError(
        "contrastive_loss has no second derivative: do not call backward with create_graph=True, "
        "or use backend='eager' (fastdual.kernels.reference.contrastive_loss), which has"
    )


torch.library.register_autograd(
    "fastdual::contrastive_fwd", _backward, setup_context=_save_for_backward
)
torch.library.register_autograd("fastdual::contrastive_bwd", _refuse_double_backward)
