"""Multi-positive contrastive softmax: NT-Xent, SupCon, CLIP, MoCo and MIL-NCE as one operation.

For rows q_i [N, D] and candidates k_j [M, D], logits are l_ij = q_i . k_j / temperature. A
candidate whose id equals the row's is positive (set P), one whose group equals the row's is
ignored, and the rest are negative. With A = positives and negatives of row i:

    positives="sum":   loss_i = log sum_A e^l - log sum_P e^l            (MIL-NCE, arXiv:1912.06430)
    positives="mean":  loss_i = mean over P of (log sum_A e^l - l)       (SupCon, arXiv:2004.11362)

Both are InfoNCE (arXiv:1807.03748) where a row has one positive. Here the arguments are checked and
bound to a Problem, which `run` passes to the reference, the fused op, or the gathered one.
"""

import torch
from torch import Tensor
from torch import distributed as dist

from fastdual.kernels import reference
from fastdual.kernels.checks import (
    as_temperature,
    check_choice,
    check_contrast,
    check_ids,
    check_rows,
    check_same_device,
)
from fastdual.kernels.contrastive import gather as gathering
from fastdual.kernels.contrastive import op
from fastdual.kernels.contrastive.problem import (
    POSITIVES,
    PRECISIONS,
    REDUCTIONS,
    Layout,
    Positives,
    Precision,
    Problem,
    Reduction,
    Settings,
    written_out,
)
from fastdual.kernels.dispatch import Backend, Gather, takes_reference, widen_mixed
from fastdual.kernels.results import ContrastiveResult


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
    precision: Precision | None = None,
    backend: Backend = "auto",
    gather: Gather = None,
) -> Tensor:
    """Return the loss of `contrastive_loss_with_metrics` alone."""
    return contrastive_loss_with_metrics(
        query, key, query_ids, key_ids, query_groups=query_groups, key_groups=key_groups,
        temperature=temperature, positives=positives, reduction=reduction, normalize=normalize,
        precision=precision, backend=backend, gather=gather, metrics=False,
    ).loss  # fmt: skip


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
    precision: Precision | None = None,
    backend: Backend = "auto",
    gather: Gather = None,
    metrics: bool = True,
) -> ContrastiveResult:
    """Return the multi-positive contrastive softmax of N rows against M candidates, with metrics.

    Pass the same tensors as query and key (ids and groups too) to contrast a batch with itself: the
    backward then takes half the products. Such a batch nearly always needs groups, because a row
    has its own id: with `arange(N)` as the groups of both, only the row itself is left out.

    Args:
        query: [N, D] rows of this process, of any strides; float32, float16 or bfloat16
            (float64 runs without kernels). Sums are float32 under autocast, too.
        key: [M, D] candidates of this process, of the same dtype. With `gather`, all processes have
            equally many, and a queue does not belong here: it would be counted once per process.
        query_ids: [N] int64 or int32. With `gather`, ids and groups mean the same on all processes.
        key_ids: [M]. A candidate is positive where its id equals the row's. A negative id (of an
            entry of a queue, for example) is never positive, not even for a row of that id.
        query_groups: [N] int64 or int32, or None: nothing is ignored.
        key_groups: [M]. A candidate is ignored where its group equals the row's, positive or not. A
            negative group is never equal.
        temperature: Softmax divisor: a number above 0, or a 0-d tensor, which gets a gradient. The
            value of a tensor is not checked: that would block until the device is done.
        positives: How the positives of a row combine, see the module's docstring.
        reduction: "mean" over the rows that have a positive (0 if none has), "sum", or "none" for
            [N]. A row without a positive has loss 0 and no gradient.
        normalize: L2-normalise the rows of query and key first, in the same pass.
        precision: Of float32 products on a GPU: "ieee", or "tf32" for tensor cores and 10-bit
            mantissas; None for what torch.set_float32_matmul_precision allows torch's own products.
            Elsewhere, and in half precision, it changes nothing.
        backend: See fastdual.losses.
        gather: See fastdual.losses.
        metrics: False leaves the metrics out: top1, top5 and valid are then empty, [0].

    Returns:
        The loss, float32 (float64 for float64 inputs), differentiable once in query, key and
        temperature, unless `backend` is "eager"; and per row, whether its best positive is among
        the first 1 and 5.

    Raises:
        ValueError: An argument does not fit; the message names it, its value and the rule.
        RuntimeError: Under torch.func, or in forward mode, unless `backend` is "eager".
    """
    query, key = (query, query) if key is query else widen_mixed(query, key)
    temperature = as_temperature(temperature)
    check_contrast(query, key, (query_ids, key_ids), (query_groups, key_groups), temperature)
    own = key is query and key_ids is query_ids and key_groups is query_groups
    precision = torchs_precision() if precision is None else precision
    settings = Settings(positives, reduction, normalize, precision, metrics)
    problem = Problem(
        query,
        None if own else key,
        query_ids,
        None if own else key_ids,
        query_groups,
        None if own else key_groups,
        *_bind_temperature(temperature, settings),
    )
    return run(problem, backend, gather)


def batch_problem(
    rows: Tensor,
    ids: Tensor | None,
    layout: Layout,
    temperature: float | Tensor,
    settings: Settings = Settings(),  # noqa: B008, it is immutable
) -> Problem:
    """Check and bind a batch contrasted with itself, whose ids and groups follow from the layout.

    Ids and groups of each row would give the same loss, but cost a launch or two each; `run` writes
    them out only where the reference or other processes need them.

    Args:
        rows: [N, D] embeddings of this process.
        ids: [num_ids] int64 or int32 id of each sample, or None: all samples are different.
        layout: Which row belongs to which sample and group. Groups of two processes differ.
        temperature: Softmax divisor, a float or a 0-d tensor, which gets a gradient.
        settings: All else; `layout`, `learned` and, after torch's, `precision` are set here.

    Raises:
        ValueError: An argument does not fit; the message names it, its value and the rule.
    """
    temperature = as_temperature(temperature)
    check_rows("rows", rows)
    num_rows = rows.shape[0]
    samples_run = layout.id_run * layout.num_ids
    for name, run_length in (("id_run * num_ids", samples_run), ("group_run", layout.group_run)):
        if run_length < 1 or num_rows % run_length:
            raise ValueError(f"{name} is {run_length}, must divide the {num_rows} rows")
    if ids is not None:
        check_ids("ids", ids, layout.num_ids, "the samples")
    check_same_device(rows=rows, ids=ids, temperature=temperature)
    settings = settings._replace(layout=layout, precision=torchs_precision())
    bound = _bind_temperature(temperature, settings)
    return Problem(rows, None, ids, None, None, None, *bound)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def torchs_precision() -> Precision:
    """Return the precision that torch takes for its own float32 products on a GPU.

    A compiled graph keeps that of its compilation.
    """
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def run(problem: Problem, backend: Backend, gather: Gather) -> ContrastiveResult:
    """Return the loss of a problem on the backend and over the processes asked for.

    Args:
        problem: Rows and candidates of this process.
        backend: See fastdual.losses.
        gather: See fastdual.losses.

    Raises:
        ValueError: Unknown backend or gather, or the kernels cannot run.
    """
    num_processes = gathering.processes_to_gather(gather)
    first = gathering.first_number() if num_processes > 1 else 0
    if takes_reference(backend, problem.query):
        return _run_reference(written_out(problem, first), num_processes)
    if num_processes > 1:
        return gathering.run(written_out(problem, first), gather)
    merged = op.run(problem)
    return ContrastiveResult(merged.loss, *merged.hits.unbind())


def _bind_temperature(
    temperature: float | Tensor, settings: Settings
) -> tuple[Tensor | None, float, Settings]:
    """Check the settings; return the last three fields of a Problem.

    An op cannot see `requires_grad`, so it is told whether a gradient may be asked for.
    """
    check_choice("positives", settings.positives, POSITIVES)
    check_choice("reduction", settings.reduction, REDUCTIONS)
    check_choice("precision", settings.precision, PRECISIONS)
    if not isinstance(temperature, Tensor):
        return None, temperature, settings
    learned = temperature.requires_grad and torch.is_grad_enabled()
    return temperature, 1.0, settings._replace(learned=learned)


def _run_reference(problem: Problem, num_processes: int) -> ContrastiveResult:
    """Run the reference on the candidates of all processes, of which even a ring spares it none."""
    settings = problem.settings
    key, key_ids, key_groups = problem.columns, problem.column_ids, problem.column_groups
    assert problem.query_ids is not None and key_ids is not None
    if num_processes > 1:
        gathering.check_even(key)
        key, key_ids = _gather_rows(key), _gather_rows(key_ids)
        key_groups = None if key_groups is None else _gather_rows(key_groups)
    temperature = problem.temperature_value if problem.temperature is None else problem.temperature
    over_all = num_processes > 1 and settings.reduction == "mean"
    # Inputs are used as they are, as in the fused ops.
    with torch.autocast(problem.query.device.type, enabled=False):
        result = reference.contrastive_loss_with_metrics(
            problem.query,
            key,
            problem.query_ids,
            key_ids,
            query_groups=problem.query_groups,
            key_groups=key_groups,
            temperature=1.0 / temperature if settings.is_scale else temperature,
            positives=settings.positives,
            reduction="sum" if over_all else settings.reduction,
            normalize=settings.normalize,
        )
    loss = result.loss
    if over_all:
        count = result.valid.sum()
        dist.all_reduce(count)
        loss = loss * num_processes / count.clamp(min=1)
    hits = result[1:] if settings.metrics else [result.valid[:0]] * 3
    return ContrastiveResult(loss, *hits)


def _gather_rows(rows: Tensor) -> Tensor:
    """Gather [M, ...] of each process as [W * M, ...]; the gradient is summed over processes.

    It can be differentiated twice, which the gather of the fused op cannot.
    """
    from torch.distributed.nn.functional import all_gather

    parts: tuple[Tensor, ...] = all_gather(rows.contiguous())  # type: ignore[no-untyped-call]
    return torch.cat(parts)
