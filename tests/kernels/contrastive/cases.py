"""Inputs of the contrastive tests, and a child process that interprets the kernels.

Triton decides at import whether it interprets, so `python -m tests.kernels.contrastive.cases FILE`
under TRITON_INTERPRET=1 works all cases off and stores the outcomes for the tests.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from fastdual import losses
from fastdual.kernels.contrastive import op as contrastive
from fastdual.kernels.contrastive.op import contrastive_loss, contrastive_loss_with_metrics
from fastdual.kernels.contrastive.problem import Layout
from fastdual.kernels.results import ContrastiveResult
from fastdual.kernels.segment_sums.op import segment_sums
from fastdual.kernels.shuffle_rank import checks as rank_checks
from tests.numerics import poisoned_empty


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
    first, *_ = dtypes
    # More rows than one block of the merge has; candidates in many parts; D past one tile.
    cases += [Case(1040, 24, 8, first, groups=False), Case(8, 1500, 16, first, ids="some")]
    cases += [Case(9, 20, 1024, first, normalize=True)]
    return cases


INTERPRETED_CASES = kernel_cases(torch.float32, torch.float16)
NUM_REPEATED = 6
# Elements between rows. The first is no int32 itself; with the second, only its product with 2 is.
FAR_STRIDES = 2**31 + 64, 2**30 + 64


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
    groups = labels(case.rows, case.rows).to(device), labels(num_columns, case.rows).to(device)
    return Inputs(query, key, query_ids, key_ids, *groups)


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
        problem = contrastive.make_batch_problem(
            query,
            sample_ids(case, str(query.device)),
            place,
            1.0 / temperature if case.is_scale else temperature,
            options["positives"],
            options["normalize"],
            "ieee",
            is_scale=case.is_scale,
        )
        merged = contrastive.run(problem, reduction=options["reduction"], metrics=True)
        return ContrastiveResult(merged.loss, *merged.hits.unbind())

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


def upstream_like(loss: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(loss.shape, generator=generator).to(loss) + 0.5


def loss_with_nan() -> Tensor:
    """The loss where one row of the query, and no candidate, has a NaN."""
    inputs = make_inputs(Case(4, 5, 8, ids="all", groups=False))
    inputs.query[1, 3] = torch.nan
    return contrastive_loss_with_metrics(*inputs[:4], temperature=0.1).loss


def rows_with_infinity() -> tuple[Tensor, Tensor]:
    """Losses of rows, and which are valid, where the second one's only logits are -inf."""
    inputs = make_inputs(Case(4, 5, 8, ids="all", groups=False))
    inputs.key[:, 3] = 1.0
    inputs.query[1, 3] = -torch.inf
    result = contrastive_loss_with_metrics(*inputs[:4], temperature=0.1, reduction="none")
    return result.loss, result.valid


def fields_without_slope() -> Tensor:
    """What the forward gathers under a temperature that is a tensor, of which no gradient is asked.

    Memory that nothing was stored to is NaN.
    """
    inputs = make_inputs(Case(33, 40, 16))
    problem = contrastive.make_problem(*inputs, torch.tensor(0.1), "mean", True, "ieee")
    with poisoned_empty():
        return contrastive.compute_partials(problem, metrics=False).fields


def rows_apart(stride: int) -> Tensor:
    """[3, 16] of unit rows that lie so many elements apart, in memory that is else untouched."""
    near = F.normalize(torch.randn(3, 16, generator=torch.Generator().manual_seed(2)), dim=1)
    # Gigabytes of addresses, three pages of memory.
    far = torch.empty(2 * stride + 64, dtype=torch.float16).as_strided((3, 16), (stride, 1))
    return far.copy_(near)


def loss_and_gradient(function: Callable[..., Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
    """Of three rows, the first and the last positives of each other; the loss is [3]."""
    rows = rows.detach().requires_grad_()
    ids, groups = torch.tensor([0, 1, 0]), torch.arange(3)
    loss = function(
        rows, rows, ids, ids, query_groups=groups, key_groups=groups,
        temperature=0.5, reduction="none",
    )  # fmt: skip
    (grad,) = torch.autograd.grad(loss.sum(), rows)
    return loss.detach(), grad


def segment_views(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Two views [5, 3, 300], the second one strided."""
    generator = torch.Generator().manual_seed(1)
    first, second = torch.randn(2, 5, 3, 300, generator=generator).to(dtype)
    return first, second.transpose(0, 2).contiguous().transpose(0, 2)


@contextmanager
def triton_launches() -> Iterator[list[str]]:
    """Names of the kernels that are interpreted within it."""
    from triton.runtime import interpreter

    launches: list[str] = []
    launch = interpreter.GridExecutor.__call__

    def counted(self: Any, *args: Any, **options: Any) -> Any:
        launches.append(self.fn.__name__)
        with _disable_current_modes():  # what the interpreter does is no launch
            return launch(self, *args, **options)

    interpreter.GridExecutor.__call__ = counted
    try:
        yield launches
    finally:
        interpreter.GridExecutor.__call__ = launch


class TorchLaunches(TorchDispatchMode):
    """Names of torch's own operations that launch a kernel on a GPU: all but views and empties."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.name()
        if name in OPDEFS:  # what an op of ours calls besides its kernels counts as well
            with self:
                return OPDEFS[name]._init_fn(*args, **kwargs or {})
        free = function.is_view or "empty" in name or name == "aten::_unsafe_view"
        if not free:
            self.names.append(name)
        return function(*args, **kwargs or {})


def launches_of_losses() -> dict[str, int]:
    """Forward and backward of each loss on the paper's 128 rows: torch's launches and Triton's."""
    generator = torch.Generator().manual_seed(0)

    def leaf(*shape: int) -> Tensor:
        x = F.normalize(torch.randn(*shape, generator=generator), dim=-1)
        return x.requires_grad_()

    first, second = leaf(64, 128), leaf(64, 128)
    clips, others = leaf(64, 2, 64), leaf(64, 2, 64)
    scale = torch.tensor(10.0, requires_grad=True)
    learned = losses.NTXentLoss(torch.nn.Parameter(torch.tensor(0.1)))
    permutation = torch.tensor([[1, 0]]).expand(64, 2)
    coherence = losses.TemporalCoherenceLoss
    calls: dict[str, tuple[Callable[..., Tensor], list[Tensor], list[Any]]] = {
        "NT-Xent": (losses.NTXentLoss(), [first, second], []),
        "NT-Xent, learned temperature": (
            lambda first, second, _: learned(first, second),
            [first, second, learned.temperature],
            [],
        ),
        "SupCon": (losses.SupConLoss(), [leaf(128, 128)], [torch.arange(128) // 2]),
        "CLIP": (losses.ClipLoss(), [first, second], [10.0]),
        "CLIP, learned scale": (losses.ClipLoss(), [first, second, scale], []),
        "temporal coherence": (coherence(), [clips, others], []),
        "temporal coherence of segments": (coherence(form="segments"), [clips, others], []),
        "shuffle-rank": (losses.ShuffleRankLoss(), [clips, others], [permutation]),
    }
    counts = {}
    one = torch.ones(())
    for name, (loss, inputs, rest) in calls.items():
        # The values of a permutation are checked on a CPU only.
        with triton_launches() as ours, unchecked_permutations(), TorchLaunches() as torchs:
            torch.autograd.grad(loss(*inputs, *rest), inputs, one)
        counts[name] = len(ours) + len(torchs.names)
    return counts


@contextmanager
def unchecked_permutations() -> Iterator[None]:
    """As on a GPU, where nothing waits for the device."""
    check = rank_checks.check_permutation
    rank_checks.check_permutation = lambda permutation, x: None
    try:
        yield
    finally:
        rank_checks.check_permutation = check


def main(path: Path) -> None:
    """Evaluates every case, the first ones twice, and counts launches."""

    def run(case: Case) -> tuple[Tensor, ...]:
        with poisoned_empty():
            return tuple(evaluate(fused(case), case, make_inputs(case)))

    outcomes = [run(case) for case in [*INTERPRETED_CASES, *INTERPRETED_CASES[:NUM_REPEATED]]]
    counts = []
    for columns in (None, 128):
        with triton_launches() as launches:
            run(Case(128, columns, 128, learned=False))
        counts.append(len(launches))
    torch.save(
        {
            "outcomes": outcomes,
            "launches_at_128_rows": counts,
            "launches_of_losses": launches_of_losses(),
            "segment_sums": {
                dtype: segment_sums(*segment_views(dtype))
                for dtype in (torch.float32, torch.float16)
            },
            "loss_with_nan": loss_with_nan(),
            "rows_with_infinity": rows_with_infinity(),
            "fields_without_slope": fields_without_slope(),
            # Not within poisoned_empty, which would write all the memory.
            "far_rows": [
                loss_and_gradient(contrastive_loss, rows_apart(stride)) for stride in FAR_STRIDES
            ],
        },
        path,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
