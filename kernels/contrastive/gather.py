"""The contrastive softmax of several processes: local rows against the candidates of all of them.

Gradients flow back to the candidates of every process (arXiv:2002.05709 needs it, many codes lose
it), so the gradient that W processes average, as DistributedDataParallel does, is that of one
process that holds the whole batch. Two ways, same numbers:

- "all": one all-gather of the candidates, one reduce-scatter of their gradients. Each process holds
  all W * M candidates: memory O(W M D).
- "ring": blocks of candidates travel from process to process and, in the backward, their gradients
  with them. Never more than two blocks on one process: memory O(M D), and the next block is under
  way while this one is worked on. W - 1 rounds of messages forward, W backward.
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch import distributed as dist

from fastdual.kernels.backend import refuse_transforms
from fastdual.kernels.checks import check_choice
from fastdual.kernels.contrastive import op as contrastive
from fastdual.kernels.contrastive.problem import Merged, Partials, Problem
from fastdual.kernels.contrastive.streaming import temperature_gradient
from fastdual.kernels.results import ContrastiveResult

Group = dist.ProcessGroup | None

# torch 2.13 gave both collectives new names and warns at the old ones, which 2.11 has alone.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def processes_to_gather(gather: Literal["all", "ring"] | None, group: Group = None) -> int:
    """How many processes' candidates a row meets; 1 where nothing is gathered."""
    if gather is not None:
        check_choice("gather", gather, ("all", "ring"))
    return dist.get_world_size(group) if gather is not None and dist.is_initialized() else 1


def gathered_contrastive_loss_with_metrics(
    query: Tensor,
    key: Tensor,
    query_ids: Tensor,
    key_ids: Tensor,
    *,
    query_groups: Tensor | None = None,
    key_groups: Tensor | None = None,
    temperature: float | Tensor,
    positives: contrastive.Positives = "sum",
    reduction: contrastive.Reduction = "mean",
    normalize: bool = False,
    precision: contrastive.Precision = "ieee",
    gather: Literal["all", "ring"] | None = "all",
    process_group: Group = None,
    metrics: bool = True,
) -> ContrastiveResult:
    """`contrastive_loss_with_metrics` of this process's rows against all processes' candidates.

    Every process calls it at the same time with its own part. Ids and groups must mean the same on
    all of them: a group like `arange(N)` has to start at rank * N. Queries may differ in number
    between processes, candidates may not; that is checked on CPU tensors only, for it waits for the
    others.

    Args:
        query: As for `contrastive_loss`, and so are all arguments not named here.
        key: [M, D] candidates of this process, as many as every other process has. All processes
            alike want a gradient of it, or none does. No queue: it would be counted W times.
        reduction: "mean" divides by the number of rows with a positive on *all* processes and
            multiplies by W: the mean of the W losses is the loss of the whole batch, also where
            processes have different numbers of such rows. "sum" and "none" are of this process's
            rows as they are; averaged gradients are then 1/W of one process's.
        gather: "all", "ring" (see the module), or None: this process's candidates alone.
        process_group: None for all processes. One process, or none started: nothing is gathered.
        metrics: False leaves top1, top5 and valid empty, [0].

    Raises:
        ValueError: An argument does not fit, or processes have different numbers of candidates.
    """
    problem = contrastive.make_problem(
        query, key, query_ids, key_ids, query_groups, key_groups,
        temperature, positives, normalize, precision,
    )  # fmt: skip
    num_processes = processes_to_gather(gather, process_group)
    if num_processes == 1:
        merged = contrastive.run(problem, reduction=reduction, metrics=metrics)
        return ContrastiveResult(merged.loss, *merged.hits.unbind())
    check_choice("reduction", reduction, ("mean", "none", "sum"))
    refuse_transforms(query, key, problem.temperature)
    check_even(key, process_group)
    local_reduction = "sum" if reduction == "mean" else reduction
    run = _run_all if gather == "all" else _run_ring
    merged = run(problem, local_reduction, metrics, process_group)
    loss = merged.loss
    if reduction == "mean":
        count = merged.num_valid.clone()
        dist.all_reduce(count, group=process_group)
        loss = loss * (num_processes / count.clamp(min=1))
    return ContrastiveResult(loss, *merged.hits.unbind())


def check_even(key: Tensor, group: Group = None) -> None:
    """All processes bring candidates of one shape.

    On a CPU only, for a GPU would have to be waited for, and torch.compile would break its graph.
    """
    if key.device.type != "cpu" or torch.compiler.is_compiling():
        return
    mine = torch.tensor(key.shape)
    shapes = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(shapes, mine, group=group)
    found = [shape.tolist() for shape in shapes]
    if any(shape != found[0] for shape in found):
        raise ValueError(
            f"key has shapes {found} on the processes, must be one shape on all of them"
        )


class _GatherRows(torch.autograd.Function):
    """[M, D] of each process -> [W * M, D] of all; the summed gradient goes back in parts."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: Group) -> Tensor:
        ctx.group, ctx.shape = group, rows.shape
        num_processes = dist.get_world_size(group)
        gathered = rows.new_empty((num_processes * rows.shape[0], *rows.shape[1:]))
        _all_gather(gathered, rows.contiguous(), group=group)
        return gathered

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        # float32: a sum of W half-precision gradients is rounded once, at its end.
        total = grad.to(torch.promote_types(grad.dtype, torch.float32)).contiguous()
        own = total.new_empty(ctx.shape)
        _reduce_scatter(own, total, group=ctx.group)
        return own.to(grad.dtype), None


def _pack_labels(problem: Problem) -> Tensor:
    """Ids and groups of the candidates [M, L] int64 as one message; without groups L = 1."""
    labels = [problem.column_ids, problem.column_groups]
    return torch.stack([label.long() for label in labels if label is not None], dim=1)


def _with_columns(problem: Problem, key: Tensor, labels: Tensor) -> Problem:
    """The same rows against other candidates."""
    groups = labels[:, 1] if labels.shape[1] == 2 else None
    return problem._replace(key=key, key_ids=labels[:, 0], key_groups=groups)


def _run_all(problem: Problem, reduction: str, metrics: bool, group: Group) -> Merged:
    key = _GatherRows.apply(problem.columns, group)  # type: ignore[no-untyped-call]
    labels = _GatherRows.apply(_pack_labels(problem), group)  # type: ignore[no-untyped-call]
    return contrastive.run(
        _with_columns(problem, key, labels), reduction=reduction, metrics=metrics
    )


class _Shift:
    """Tensors on their way to the ring's next process, and the previous one's to here."""

    def __init__(self, tensors: list[Tensor], group: Group) -> None:
        rank, num_processes = dist.get_rank(group), dist.get_world_size(group)
        self._leaving = tensors  # kept alive until they have left
        self._arriving = [torch.empty_like(tensor) for tensor in tensors]
        # Batched, so that NCCL posts sends and receives together and no process waits for another.
        operations = []
        for tensor, arriving in zip(tensors, self._arriving, strict=True):
            for operation, buffer, peer in (
                (dist.isend, tensor, (rank + 1) % num_processes),
                (dist.irecv, arriving, (rank - 1) % num_processes),
            ):
                operations.append(dist.P2POp(operation, buffer, group=group, group_peer=peer))
        self._works = dist.batch_isend_irecv(operations)

    def wait(self) -> list[Tensor]:
        for work in self._works:
            work.wait()
        return self._arriving


class _RingLoss(torch.autograd.Function):
    """Loss, count and hits of Merged; tensors that may want a gradient come apart from the rest."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        temperature: Tensor | None,
        problem: Problem,
        reduction: str,
        metrics: bool,
        group: Group,
    ) -> tuple[Tensor, Tensor, Tensor]:
        problem = problem._replace(query=query, temperature=temperature)
        block = [key.contiguous(), _pack_labels(problem)]
        own_block, parts = block, []
        last = dist.get_world_size(group) - 1
        for step in range(last + 1):
            shift = _Shift(block, group) if step < last else None
            part = contrastive.compute_partials(_with_columns(problem, *block), metrics=metrics)
            parts.append(part)
            block = shift.wait() if shift else block
        fields = torch.cat([part.fields for part in parts])
        merged = contrastive.merge_partials(fields, problem, reduction=reduction)
        ctx.save_for_backward(
            query, temperature, merged.statistics, merged.slope, parts[0].query_scale, *own_block,
            *([parts[0].key_scale] if problem.normalize else []),
        )  # fmt: skip
        # The tensors that autograd knows come from there; here are ids, groups and options alone.
        ctx.problem = problem._replace(query=query.new_empty(0), key=None, temperature=None)
        ctx.group = group
        ctx.mark_non_differentiable(merged.num_valid, merged.hits)
        return merged.loss, merged.num_valid, merged.hits

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        query, temperature, statistics, slope, query_scale, *block = ctx.saved_tensors
        key_dtype = block[0].dtype
        problem = ctx.problem._replace(query=query, temperature=temperature)
        needs = ctx.needs_input_grad[:3]
        grad_temperature = None
        if needs[2]:  # the slope is of all blocks already
            grad_temperature = temperature_gradient(problem, slope, upstream).to(temperature.dtype)
        total = query.new_empty(0)
        travelling: _Shift | None = None
        last = dist.get_world_size(ctx.group) - 1
        for step in range(last + 1):
            shift = _Shift(block, ctx.group) if step < last else None
            key, labels, *key_scale = block
            grad_query, grad_key = contrastive.compute_gradients(
                _with_columns(problem, key, labels),
                Partials(statistics, query_scale, *(key_scale or [query_scale])),
                statistics, slope, upstream, None, (*needs[:2], False), dtype=problem.dtype,
            )[:2]  # fmt: skip
            total = total + grad_query if step else grad_query
            if needs[1]:
                # What the block has gathered on its way so far arrives behind it.
                if travelling is not None:
                    grad_key = grad_key + travelling.wait()[0]
                travelling = _Shift([grad_key], ctx.group)
            block = shift.wait() if shift else block
        return (
            total.to(query.dtype) if needs[0] else None,
            travelling.wait()[0].to(key_dtype) if travelling else None,
            grad_temperature,
            *(None,) * 4,
        )


def _run_ring(problem: Problem, reduction: str, metrics: bool, group: Group) -> Merged:
    labels_only = problem._replace(
        key=problem.columns.detach(),
        key_ids=problem.column_ids,
        key_groups=problem.column_groups,
    )
    loss, count, hits = _RingLoss.apply(  # type: ignore[no-untyped-call]
        problem.query, problem.columns, problem.temperature, labels_only, reduction, metrics, group
    )
    return Merged(loss, count, hits, loss.new_empty(0), loss.new_empty(0))
