"""The two operations behind every loss, on the backend and over the processes asked for.

What `backend` and `gather` mean is said in fastdual.losses. Shape letters: N rows, M candidates,
B samples of this process, S segments, D embedding size.
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch import distributed as dist

from fastdual.kernels import reference
from fastdual.kernels.backend import KERNEL_DTYPES, runs_triton
from fastdual.kernels.checks import check_choice
from fastdual.kernels.contrastive import gather as gathering
from fastdual.kernels.contrastive import op as contrastive
from fastdual.kernels.contrastive.op import Positives, Precision, Reduction
from fastdual.kernels.contrastive.problem import Layout
from fastdual.kernels.results import ContrastiveResult, RankResult
from fastdual.kernels.shuffle_rank import op as shuffle_rank

Backend = Literal["auto", "eager", "fused"]
Gather = Literal["all", "ring"] | None

# Numbers that one process hands out as ids and groups; the next process starts after them.
_NUMBERS_PER_PROCESS = 1 << 40


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
    backend: Backend = "auto",
    gather: Gather = None,
    metrics: bool = True,
) -> ContrastiveResult:
    """Multi-positive contrastive softmax: `fastdual.kernels.contrastive_loss`, gathered.

    Args:
        query: [N, D] rows of this process.
        key: [M, D] candidates of this process; give `query` itself for a batch against itself.
        query_ids: [N] int64. With `gather`, ids and groups must mean the same on every process.
        key_ids: [M] int64; equal to the row's: positive.
        query_groups: [N] int64 or None.
        key_groups: [M] int64 or None; equal to the row's: ignored, positive or not.
        temperature: Softmax divisor, a float or a 0-d tensor, which gets a gradient.
        positives: "sum" (MIL-NCE) or "mean" (SupCon): how the positives of a row combine.
        reduction: "mean" over rows with a positive, "sum", or "none" for [N].
        normalize: L2-normalise all rows first.
        precision: Of float32 products on a GPU: "ieee", or "tf32" for tensor cores and 10-bit
            mantissas; elsewhere, and in half precision, it changes nothing.
        backend: See fastdual.losses.
        gather: See fastdual.losses.
        metrics: False leaves the metrics out: then top1, top5 and valid are empty, [0].

    Raises:
        ValueError: If an argument does not fit.
    """
    if gather is not None:
        check_choice("gather", gather, ("all", "ring"))
    query, key = (query, query) if key is query else widen_mixed(query, key)
    if _takes_reference(backend, query):
        result = _reference_contrast(
            query,
            key,
            query_ids,
            key_ids,
            query_groups=query_groups,
            key_groups=key_groups,
            temperature=temperature,
            positives=positives,
            reduction=reduction,
            normalize=normalize,
            gather=gather,
        )
        return result if metrics else ContrastiveResult(result.loss, *[result.valid[:0]] * 3)
    return gathering.gathered_contrastive_loss_with_metrics(
        query,
        key,
        query_ids,
        key_ids,
        query_groups=query_groups,
        key_groups=key_groups,
        temperature=temperature,
        positives=positives,
        reduction=reduction,
        normalize=normalize,
        precision=precision,
        gather=gather,
        metrics=metrics,
    )


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
    backend: Backend = "auto",
    gather: Gather = None,
) -> Tensor:
    """The loss of `contrastive_loss_with_metrics` alone."""
    return contrastive_loss_with_metrics(
        query,
        key,
        query_ids,
        key_ids,
        query_groups=query_groups,
        key_groups=key_groups,
        temperature=temperature,
        positives=positives,
        reduction=reduction,
        normalize=normalize,
        precision=precision,
        backend=backend,
        gather=gather,
        metrics=False,
    ).loss


def batch_contrast(
    rows: Tensor,
    ids: Tensor | None,
    layout: Layout,
    *,
    temperature: float | Tensor,
    is_scale: bool = False,
    positives: Positives = "sum",
    normalize: bool = False,
    backend: Backend = "auto",
    gather: Gather = None,
    metrics: bool = True,
) -> ContrastiveResult:
    """A batch against itself, whose rows' samples and groups follow from their place.

    What `contrastive_loss_with_metrics` gives with ids and groups written out, which takes a launch
    or two each; here they are written out only where processes or the reference need them.

    Args:
        rows: [N, D] embeddings of this process.
        ids: [num_ids] int64 id of each sample, or None: all samples are different.
        layout: Row i is of sample (i // id_run) % num_ids and of group i // group_run.
        temperature: Softmax divisor, a float or a 0-d tensor, which gets a gradient.
        is_scale: `temperature` multiplies instead.
        positives: "sum" or "mean".
        normalize: L2-normalise all rows first.
        backend: See fastdual.losses.
        gather: See fastdual.losses; groups of two processes are always different.
        metrics: False leaves the metrics out.

    Raises:
        ValueError: If an argument does not fit.
    """
    problem = contrastive.make_batch_problem(
        rows, ids, layout, temperature, positives, normalize, "ieee", is_scale=is_scale
    )
    if not _takes_reference(backend, rows) and gathering.processes_to_gather(gather) == 1:
        merged = contrastive.run(problem, reduction="mean", metrics=metrics)
        return ContrastiveResult(merged.loss, *merged.hits.unbind())
    if ids is None:
        ids = local_numbers(layout.num_ids, device=rows.device)
    row_ids = ids.repeat_interleave(layout.id_run)
    row_ids = row_ids.repeat(len(rows) // len(row_ids))
    groups = local_numbers(len(rows) // layout.group_run, device=rows.device)
    groups = groups.repeat_interleave(layout.group_run)
    return contrastive_loss_with_metrics(
        rows,
        rows,
        row_ids,
        row_ids,
        query_groups=groups,
        key_groups=groups,
        temperature=1.0 / temperature if is_scale else temperature,
        positives=positives,
        normalize=normalize,
        backend=backend,
        gather=gather,
        metrics=metrics,
    )


def shuffle_rank_loss_with_metrics(
    x: Tensor,
    shuffled: Tensor,
    permutation: Tensor,
    *,
    temperature: float = 0.05,
    clip: float | None = None,
    normalize: bool = False,
    backend: Backend = "auto",
) -> RankResult:
    """Shuffle-rank loss: fastdual.kernels.shuffle_rank.op.shuffle_rank_loss_with_metrics.

    Args:
        x: [B, S, D] segments in order, 2 <= S <= 16.
        shuffled: [B, S, D] segments of the shuffled clip, as the network saw them.
        permutation: [B, S] int64; shuffled segment i is segment permutation[i] in order.
        temperature: Divisor inside the softplus.
        clip: Largest argument of the softplus; None for no limit.
        normalize: L2-normalise all segments first.
        backend: See fastdual.losses.

    Raises:
        ValueError: If an argument does not fit.
    """
    x, shuffled = widen_mixed(x, shuffled)
    options: dict[str, Any] = {"temperature": temperature, "clip": clip, "normalize": normalize}
    if _takes_reference(backend, x):
        with torch.autocast(x.device.type, enabled=False):
            return reference.shuffle_rank_loss_with_metrics(x, shuffled, permutation, **options)
    return shuffle_rank.shuffle_rank_loss_with_metrics(x, shuffled, permutation, **options)


def shuffle_rank_loss(
    x: Tensor,
    shuffled: Tensor,
    permutation: Tensor,
    *,
    temperature: float = 0.05,
    clip: float | None = None,
    normalize: bool = False,
    backend: Backend = "auto",
) -> Tensor:
    """The loss of `shuffle_rank_loss_with_metrics` alone."""
    return shuffle_rank_loss_with_metrics(
        x,
        shuffled,
        permutation,
        temperature=temperature,
        clip=clip,
        normalize=normalize,
        backend=backend,
    ).loss


def local_numbers(count: int, *, device: torch.device) -> Tensor:
    """[count] int64 numbers that no other process hands out: ids and groups to gather."""
    start = dist.get_rank() * _NUMBERS_PER_PROCESS if dist.is_initialized() else 0
    return torch.arange(start, start + count, device=device)


def widen_mixed(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Under autocast, tensors of several dtypes as float32, as torch's own losses take them."""
    # Others, such as integers, are for the checks to refuse.
    narrow = all(isinstance(tensor, Tensor) and tensor.dtype in KERNEL_DTYPES for tensor in tensors)
    mixed = narrow and len({tensor.dtype for tensor in tensors}) > 1
    if mixed and torch.is_autocast_enabled(tensors[0].device.type):
        return tuple(tensor.float() for tensor in tensors)
    return tensors


def _takes_reference(backend: str, x: Tensor) -> bool:
    check_choice("backend", backend, ("auto", "eager", "fused"))
    if backend == "fused" and not runs_triton(x):
        raise ValueError(
            f"backend is 'fused' but embeddings are {x.dtype} on {x.device}: the kernels need "
            "Triton, a CUDA device and float32, float16 or bfloat16; use 'auto'"
        )
    return backend == "eager"


def _reference_contrast(
    query: Tensor,
    key: Tensor,
    query_ids: Tensor,
    key_ids: Tensor,
    *,
    query_groups: Tensor | None,
    key_groups: Tensor | None,
    temperature: float | Tensor,
    positives: Positives,
    reduction: Reduction,
    normalize: bool,
    gather: Gather,
) -> ContrastiveResult:
    """The reference on all processes' candidates, which the ring would not spare it either."""
    num_processes = dist.get_world_size() if gather is not None and dist.is_initialized() else 1
    if num_processes > 1:
        gathering.check_even(key)
        key, key_ids = _gather_rows(key), _gather_rows(key_ids)
        key_groups = None if key_groups is None else _gather_rows(key_groups)
    spread = num_processes > 1 and reduction == "mean"
    # What is given is computed with as it is, as in the fused operations.
    with torch.autocast(query.device.type, enabled=False):
        result = reference.contrastive_loss_with_metrics(
            query,
            key,
            query_ids,
            key_ids,
            query_groups=query_groups,
            key_groups=key_groups,
            temperature=temperature,
            positives=positives,
            reduction="sum" if spread else reduction,
            normalize=normalize,
        )
    if not spread:
        return result
    count = result.valid.sum()
    dist.all_reduce(count)
    return result._replace(loss=result.loss * num_processes / count.clamp(min=1))


def _gather_rows(rows: Tensor) -> Tensor:
    """[M, ...] of each process -> [W * M, ...] of all, with the gradient summed over processes."""
    from torch.distributed.nn.functional import all_gather

    parts: tuple[Tensor, ...] = all_gather(rows.contiguous())  # type: ignore[no-untyped-call]
    return torch.cat(parts)
