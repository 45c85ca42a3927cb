"""The contrastive softmax of several processes: local rows against the candidates of all of them.

Gradients flow back to the candidates of every process (arXiv:2002.05709 needs that, and many codes
lose it). So the gradient that W processes average, as DistributedDataParallel does, is the gradient
of one process that holds the whole batch. Two ways give the same numbers:

- "all": one all-gather of the candidates, one reduce-scatter of their gradients. Each process holds
  all W * M candidates: memory O(W M D).
- "ring": blocks of candidates travel from process to process and, in the backward, their gradients
  with them. A process never holds more than two blocks: memory O(M D), and the next block travels
  while this one is computed with. W - 1 rounds of messages forward, W backward.

    process            0   1   2
    round 0 works on   a   b   c     its own block
    round 1 works on   c   a   b     the block of the process before it
    round 2 works on   b   c   a
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from fastdual.kernels.backend import refuse_transforms
from fastdual.kernels.checks import check_choice
from fastdual.kernels.contrastive import op
from fastdual.kernels.contrastive.problem import Merged, Problem, Saved
from fastdual.kernels.contrastive.streaming import temperature_gradient
from fastdual.kernels.dispatch import Gather
from fastdual.kernels.results import ContrastiveResult

# Numbers that one process gives out as ids and groups; the next process starts after them.
_NUMBERS_PER_PROCESS = 1 << 40

# torch 2.13 gave both collectives new names and warns at the old ones, which alone 2.11 has.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def processes_to_gather(gather: Gather) -> int:
    """Return how many processes' candidates a row meets; 1 where nothing is gathered.

    Raises:
        ValueError: Unknown `gather`.
    """
    if gather is not None:
        check_choice("gather", gather, ("all", "ring"))
    return dist.get_world_size() if gather is not None and dist.is_initialized() else 1


def local_numbers(count: int, *, device: torch.device) -> Tensor:
    """Return [count] int64 numbers that no other process gives out: ids or groups to gather."""
    return torch.arange(count, device=device) + first_number()


def first_number() -> int:
    """Return the lowest of the numbers that this process gives out."""
    return dist.get_rank() * _NUMBERS_PER_PROCESS if dist.is_initialized() else 0


def run(problem: Problem, gather: Gather) -> ContrastiveResult:
    """Return the loss of this process's rows against the candidates of all processes.

    All processes call it at the same time, each with its own part. They may differ in the number of
    rows, but not of candidates, and either all of them want a gradient of the candidates or none.

    Args:
        problem: Without a layout; ids and groups mean the same on all processes. Reduction "mean"
            divides by the number of rows with a positive on *all* processes and multiplies by W:
            the mean of the W losses is the loss of the whole batch, even where processes have
            different numbers of such rows. "sum" and "none" reduce the rows of this process alone;
            averaged gradients are then 1/W of those of one process.
        gather: "all" or "ring".

    Raises:
        ValueError: Processes have different numbers of candidates.
    """
    refuse_transforms(problem.query, problem.key, problem.temperature)
    check_even(problem.columns)
    is_mean = problem.settings.reduction == "mean"
    if is_mean:
        problem = problem._replace(settings=problem.settings._replace(reduction="sum"))
    merged = _run_all(problem) if gather == "all" else _run_ring(problem)
    loss = merged.loss
    if is_mean:
        count = merged.num_valid.clone()
        dist.all_reduce(count)
        loss = loss * (dist.get_world_size() / count.clamp(min=1))
    return ContrastiveResult(loss, *merged.hits.unbind())


def check_even(key: Tensor) -> None:
    """Check that all processes bring candidates of one shape.

    It does so on a CPU only: on a GPU it would block until the device is done, and under
    torch.compile it would break the graph.
    """
    if key.device.type != "cpu" or torch.compiler.is_compiling():
        return
    mine = torch.tensor(key.shape, device=key.device)
    shapes = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(shapes, mine)
    found = [shape.tolist() for shape in shapes]
    if any(shape != found[0] for shape in found):
        raise ValueError(
            f"key has shapes {found} on the processes, must be one shape on all of them"
        )


class _GatherRows(torch.autograd.Function):
    """Gathers [M, D] of each process as [W * M, D]; the summed gradient goes back in parts."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.shape = rows.shape
        gathered = rows.new_empty((dist.get_world_size() * rows.shape[0], *rows.shape[1:]))
        _all_gather(gathered, rows.contiguous())
        # A copy: what a collective has written in place has two names in a graph of torch.compile,
        # and torch 2.11 then loses the gradient of what is returned (pytorch#180642).
        return gathered.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        # float32, so that a sum of W half-precision gradients is rounded once, at its end.
        total = grad.to(torch.promote_types(grad.dtype, torch.float32)).contiguous()
        own = total.new_empty(ctx.shape)
        _reduce_scatter(own, total)
        return own.to(grad.dtype)


def _pack_labels(problem: Problem) -> Tensor:
    """Return ids and groups of the candidates as one message [M, L] int64; without groups L = 1."""
    labels = [problem.column_ids, problem.column_groups]
    return torch.stack([label.long() for label in labels if label is not None], dim=1)


def _with_columns(problem: Problem, key: Tensor, labels: Tensor) -> Problem:
    """Return the same rows with other candidates."""
    groups = labels[:, 1] if labels.shape[1] == 2 else None
    return problem._replace(key=key, key_ids=labels[:, 0], key_groups=groups)


def _run_all(problem: Problem) -> Merged:
    key = _GatherRows.apply(problem.columns)  # type: ignore[no-untyped-call]
    labels = _GatherRows.apply(_pack_labels(problem))  # type: ignore[no-untyped-call]
    return op.run(_with_columns(problem, key, labels))


class _Shift:
    """Tensors on their way to the next process of the ring, and those of the previous one to here.

    Args:
        tensors: What leaves; the same shapes and dtypes on all processes.
    """

    def __init__(self, tensors: list[Tensor]) -> None:
        rank, num_processes = dist.get_rank(), dist.get_world_size()
        self._leaving = tensors  # kept alive until they have left
        self._arriving = [torch.empty_like(tensor) for tensor in tensors]
        # Batched, so that NCCL posts sends and receives together and no process waits for another.
        operations = []
        for tensor, arriving in zip(tensors, self._arriving, strict=True):
            for operation, buffer, other in (
                (dist.isend, tensor, (rank + 1) % num_processes),
                (dist.irecv, arriving, (rank - 1) % num_processes),
            ):
                operations.append(dist.P2POp(operation, buffer, other))
        self._works = dist.batch_isend_irecv(operations)

    def wait(self) -> list[Tensor]:
        """Return what has arrived."""
        for work in self._works:
            work.wait()
        return self._arriving


def _rounds(block: list[Tensor]) -> Iterator[list[Tensor]]:
    """Yield the blocks of all processes, one's own first; the next travels meanwhile."""
    for _ in range(dist.get_world_size() - 1):
        shift = _Shift(block)
        yield block
        block = shift.wait()
    yield block


class _RingLoss(torch.autograd.Function):
    """Loss, count and hits of Merged; tensors that may want a gradient are arguments of their own.

    The reduction is "sum" or "none". With metrics the blocks travel once more, because the best
    positive of a row is known only after all of them.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, temperature: Tensor | None, problem: Problem
    ) -> tuple[Tensor, Tensor, Tensor]:
        problem = problem._replace(query=query, temperature=temperature)
        own_block = [key.contiguous(), _pack_labels(problem)]
        with op.steps_on(query) as steps:
            parts = [
                steps.compute_partials(_with_columns(problem, *block))
                for block in _rounds(own_block)
            ]
            prepared = [part.prepared for part in parts]
            fields, counts = torch.cat([part.fields for part in parts]), None
            if problem.settings.metrics:
                rounds = zip(_rounds(own_block), prepared, strict=True)
                counted = [
                    steps.count_beaten(_with_columns(problem, *block), of, fields)
                    for block, of in rounds
                ]
                counts = torch.cat(counted)
            merged = steps.merge_partials(problem, fields, counts)
        ctx.save_for_backward(query, temperature, *own_block, *merged[1:2], *merged[3:])
        # Autograd holds the tensors it knows; the problem holds ids, groups and settings alone.
        ctx.problem = problem._replace(query=query.new_empty(0), key=None, temperature=None)
        ctx.prepared = prepared
        ctx.mark_non_differentiable(merged.num_valid, merged.hits)
        return merged.loss, merged.num_valid, merged.hits

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        query, temperature, *own_block, num_valid, statistics, slope = ctx.saved_tensors
        problem = ctx.problem._replace(query=query, temperature=temperature)
        needs = ctx.needs_input_grad[:3]
        grad_temperature = None
        if needs[2]:  # the slope is of all blocks already
            grad_temperature = temperature_gradient(problem, slope, upstream).to(temperature.dtype)
        total: Tensor | None = None
        travelling: _Shift | None = None
        for block, prepared in zip(_rounds(own_block), ctx.prepared, strict=True):
            saved = Saved(num_valid, statistics, slope, prepared)
            with op.steps_on(query) as steps:
                grad_query, grad_key = steps.compute_gradients(
                    _with_columns(problem, *block), saved, upstream, (*needs[:2], False),
                    dtype=problem.dtype,
                )[:2]  # fmt: skip
            total = grad_query if total is None else total + grad_query
            if needs[1]:
                # What the block has gathered on its way so far arrives behind it.
                if travelling is not None:
                    grad_key = grad_key + travelling.wait()[0]
                travelling = _Shift([grad_key])
        return (
            total.to(query.dtype) if needs[0] and total is not None else None,
            travelling.wait()[0].to(own_block[0].dtype) if travelling else None,
            grad_temperature,
            None,
        )


def _run_ring(problem: Problem) -> Merged:
    labels_only = problem._replace(
        key=problem.columns.detach(),
        key_ids=problem.column_ids,
        key_groups=problem.column_groups,
    )
    loss, count, hits = _RingLoss.apply(  # type: ignore[no-untyped-call]
        problem.query, problem.columns, problem.temperature, labels_only
    )
    return Merged(loss, count, hits, loss.new_empty(0), loss.new_empty(0))
