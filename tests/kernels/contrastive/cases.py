"""Cases of the contrastive softmax: their inputs, and what a loss gives for them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fastdual.kernels.contrastive import contrastive_loss_with_metrics
from fastdual.kernels.contrastive.loss import batch_problem, run
from fastdual.kernels.contrastive.problem import Layout, Settings
from fastdual.kernels.results import ContrastiveResult


@dataclass(frozen=True)
class Case:
    """One call. columns None: the rows are their own candidates, each in a group of its own."""

    rows: int
    columns: int | None
    dim: int
    dtype: torch.dtype = torch.float32
    positives: str = "sum"
    reduction: str = "mean"
    normalize: bool = False
    temperature: float = 0.07
    learned: bool = True  # the temperature is a tensor
    groups: bool = True
    layout: str = "contiguous"
    ids: str = "some"
    index: torch.dtype = torch.int64
    place: Layout | None = None  # ids and groups follow from it; ids "own": samples are numbered
    is_scale: bool = False  # the op is given the inverse of the temperature


class Inputs(NamedTuple):
    query: Tensor
    key: Tensor
    query_ids: Tensor
    key_ids: Tensor
    query_groups: Tensor | None
    key_groups: Tensor | None


class Outcome(NamedTuple):
    """What a call gives under a random upstream gradient."""

    loss: Tensor
    top1: Tensor
    top5: Tensor
    valid: Tensor
    grad_query: Tensor
    grad_key: Tensor
    grad_temperature: Tensor


def kernel_cases(*dtypes: torch.dtype) -> list[Case]:
    """Sizes of 1, below, at and past a block; odd D; all options and traps of the method."""
    cases = []
    for number, dtype in enumerate(dtypes):
        for positives in ("sum", "mean"):
            reduction = ("none", "mean")[(number + (positives == "sum")) % 2]
            options = {"dtype": dtype, "positives": positives, "reduction": reduction}
            cases += [
                Case(33, None, 40, **options),
                Case(70, 33, 64, **options, normalize=True),
                Case(5, 131, 65, **options, groups=False),
            ]
        cases += [
            Case(1, 1, 8, dtype),
            Case(1, None, 8, dtype, ids="all"),
            Case(17, None, 300, dtype, positives="mean", normalize=True),
            Case(40, 24, 16, dtype, reduction="sum", layout="transposed"),
            Case(24, 40, 16, dtype, normalize=True, layout="every other", index=torch.int32),
            Case(16, None, 24, dtype, ids="none"),
            Case(20, 33, 24, dtype, ids="all", positives="mean"),
            Case(40, None, 32, dtype, temperature=0.01, ids="twins"),
            Case(40, None, 32, dtype, temperature=0.01, ids="twins", positives="mean"),
            Case(24, 50, 32, dtype, ids="high bits", groups=False),
            Case(24, 50, 32, dtype, ids="high bits", positives="mean", learned=False),
        ]
        # Two views; segments, with ids; images and texts: groups of whole blocks and of parts.
        cases += [
            Case(34, None, 24, dtype, ids="own", place=Layout(1, 17, 1)),
            Case(48, None, 40, dtype, "mean", "none", place=Layout(3, 8, 3)),
            Case(140, None, 24, dtype, ids="own", place=Layout(1, 70, 70), is_scale=True),
            Case(256, None, 16, dtype, normalize=True, place=Layout(2, 64, 128), index=torch.int32),
        ]
        # Slopes of 1e-9, which float16 itself would lose.
        cases += [Case(40, None, 32, dtype, temperature=0.02, ids="twins")]
    first, *_ = dtypes
    # More rows than one block of the merge has; candidates in many parts; D past one tile.
    cases += [Case(1040, 24, 8, first, groups=False), Case(8, 1500, 16, first, ids="some")]
    cases += [Case(9, 20, 2048, first, normalize=True)]
    return cases


# Worked off with flags: blocks of 64 x 64 logits of which some hold negatives alone.
FLAGGED_CASES = [
    Case(200, None, 16, temperature=0.1, ids="twins", reduction="none"),
    Case(200, None, 16, torch.float16, "mean", normalize=True, ids="twins"),
    Case(70, 150, 24, ids="far", groups=False),
    Case(150, 70, 24, torch.float16, "mean", normalize=True, ids="far"),
    Case(140, None, 24, place=Layout(1, 70, 1)),
    # Tiles of 128 rows, of which the second 64 alone hold a positive.
    Case(1100, 100, 8, torch.float16, ids="shifted", groups=False, learned=False),
    # Groups meet where no ids do.
    Case(70, 150, 16, ids="far", learned=False),
]
INTERPRETED_CASES = kernel_cases(torch.float32, torch.float16)
NUM_REPEATED = 6


def make_inputs(case: Case, device: str = "cpu") -> Inputs:
    """The same on every call."""
    generator = torch.Generator().manual_seed(case.rows * 1000 + case.dim)

    def embeddings(count: int) -> Tensor:
        x = torch.randn(count, case.dim, generator=generator)
        x = x * 3 if case.normalize else F.normalize(x, dim=1)
        return _lay_out(x.to(case.dtype).to(device), case.layout)

    def labels(count: int, kinds: int) -> Tensor:
        return torch.randint(-1, kinds, (count,), generator=generator)

    num_columns = case.columns or case.rows
    query, query_ids = embeddings(case.rows), labels(case.rows, max(2, case.rows // 3))
    key, key_ids = embeddings(num_columns), labels(num_columns, max(2, case.rows // 3))
    if case.ids in ("all", "none"):
        query_ids, key_ids = torch.zeros_like(query_ids), torch.zeros_like(key_ids)
        query_ids += case.ids == "none"
    if case.ids == "twins":
        # Pairs of equal rows: a positive at similarity 1, whose slope cancels if computed as p - 1.
        query = query.clone()
        query[1::2] = query[::2]
        query_ids = torch.arange(case.rows) // 2
    if case.ids == "high bits":
        # Equal low halves; half of them differ in the high one.
        query_ids = torch.where(query_ids % 2 == 0, query_ids + (1 << 40), query_ids)
        key_ids = torch.where(key_ids % 2 == 0, key_ids + (1 << 41), key_ids)
    if case.ids == "far":
        # Each row's positive is one candidate, and the last ones are positives of none.
        query_ids, key_ids = torch.arange(case.rows), torch.arange(num_columns)
    if case.ids == "shifted":
        query_ids, key_ids = torch.arange(case.rows), torch.arange(num_columns) * 10 + 70
    query_ids, key_ids = query_ids.to(case.index).to(device), key_ids.to(case.index).to(device)
    if case.place is not None:
        samples = sample_ids(case, device)
        if samples is None:
            samples = torch.arange(case.place.num_ids, device=device)
        row = torch.arange(case.rows, device=device)
        query_ids = samples[row // case.place.id_run % case.place.num_ids]
        groups = row // case.place.group_run
        return Inputs(query, query, query_ids, query_ids, groups, groups)
    if case.columns is None:
        own = torch.arange(case.rows, device=device) if case.groups else None
        if case.ids == "none":
            query_ids = torch.arange(case.rows, device=device)
        return Inputs(query, query, query_ids, query_ids, own, own)
    if not case.groups:
        return Inputs(query, key, query_ids, key_ids, None, None)
    query_groups, key_groups = labels(case.rows, case.rows), labels(num_columns, case.rows)
    if case.ids == "high bits":  # as groups of different processes are
        query_groups = torch.where(query_groups % 2 == 0, query_groups + (1 << 40), query_groups)
        key_groups = torch.where(key_groups % 2 == 0, key_groups + (1 << 41), key_groups)
    return Inputs(query, key, query_ids, key_ids, query_groups.to(device), key_groups.to(device))


def sample_ids(case: Case, device: str) -> Tensor | None:
    """[num_ids] of a case with a place, of which some are equal; None for ids "own"."""
    assert case.place is not None
    if case.ids == "own":
        return None
    generator = torch.Generator().manual_seed(case.rows)
    kinds = max(2, case.place.num_ids // 2)
    ids = torch.randint(0, kinds, (case.place.num_ids,), generator=generator)
    return ids.to(case.index).to(device)


def fused(case: Case) -> Callable[..., Any]:
    """The op in the form that the case is for, called as contrastive_loss_with_metrics is."""
    place = case.place
    if place is None:
        return contrastive_loss_with_metrics

    def by_place(query: Tensor, *_: Tensor, **options: Any) -> ContrastiveResult:
        temperature = options["temperature"]
        settings = Settings(
            options["positives"], options["reduction"], options["normalize"],
            is_scale=case.is_scale,
        )  # fmt: skip
        ids = sample_ids(case, str(query.device))
        temperature = 1.0 / temperature if case.is_scale else temperature
        return run(batch_problem(query, ids, place, temperature, settings), "auto", None)

    return by_place


def _lay_out(x: Tensor, layout: str) -> Tensor:
    if layout == "transposed":
        return x.T.contiguous().T
    if layout == "every other":
        return x.repeat_interleave(2, dim=1)[:, ::2]
    return x


def evaluate(function: Callable[..., Any], case: Case, inputs: Inputs) -> Outcome:
    """Loss, metrics and gradients of `function` at `inputs`; gradients not asked for are [0]."""
    query = inputs.query.detach().requires_grad_()
    own = inputs.key is inputs.query
    key = query if own else inputs.key.detach().requires_grad_()
    temperature: Any = case.temperature
    wanted = [query] if own else [query, key]
    if case.learned:
        temperature = torch.tensor(case.temperature, dtype=torch.float64, device=query.device)
        temperature = temperature.to(torch.promote_types(query.dtype, torch.float32))
        wanted.append(temperature.requires_grad_())
    result = function(
        query,
        key,
        inputs.query_ids,
        inputs.key_ids,
        query_groups=inputs.query_groups,
        key_groups=inputs.key_groups,
        temperature=temperature,
        positives=case.positives,
        reduction=case.reduction,
        normalize=case.normalize,
    )
    grads = list(torch.autograd.grad(result.loss, wanted, upstream_like(result.loss)))
    nothing = query.new_zeros(0)
    grad_query = grads.pop(0)
    grad_key = nothing if own else grads.pop(0)
    return Outcome(
        result.loss.detach(), result.top1, result.top5, result.valid,
        grad_query, grad_key, grads[0] if grads else nothing,
    )  # fmt: skip


def call(module: Any, inputs: Inputs, **options: Any) -> ContrastiveResult:
    """What the loss of a module gives for inputs: kernels.reference, or kernels.contrastive."""
    result: ContrastiveResult = module.contrastive_loss_with_metrics(
        *inputs[:4], query_groups=inputs.query_groups, key_groups=inputs.key_groups, **options
    )
    return result


def upstream_like(loss: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(loss.shape, generator=generator).to(loss) + 0.5
