"""Inputs of the shuffle-rank tests, and what the child process that interprets its kernels does."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fastdual.kernels import reference
from fastdual.kernels.results import RankResult
from fastdual.kernels.shuffle_rank import shuffle_rank_loss_with_metrics
from tests.kernels.launches import triton_launches
from tests.numerics import assert_no_worse_than_eager, poisoned_empty

UPSTREAM = 1.7
# Beyond the error of eager at the same dtype, relative to the largest entry: for float32 another
# order of summation, for half precision one rounding of a gradient, which may fall the other way.
TOLERANCE = {
    torch.float64: 1e-14,
    torch.float32: 3e-6,
    torch.float16: 2**-11,
    torch.bfloat16: 2**-8,
}


@dataclass(frozen=True)
class Case:
    """One call. `layout` is how the inputs lie in memory, `index` the dtype of the permutation."""

    batch: int
    segments: int
    dim: int
    dtype: torch.dtype = torch.float32
    temperature: float = 0.05
    clip: float | None = None
    normalize: bool = False
    layout: str = "contiguous"
    index: torch.dtype = torch.int64


class Outcome(NamedTuple):
    """What a call gives under UPSTREAM."""

    loss: Tensor
    accuracy: Tensor
    grad_x: Tensor
    grad_shuffled: Tensor


# One sample, a partial last program (33 samples at 4 a program), D below, at and past a block of
# 32, 2S below, at and past 16 rows.
SHAPES = [(1, 2, 8), (33, 2, 64), (5, 3, 40), (4, 5, 33), (3, 8, 100), (2, 9, 24), (2, 16, 65)]


def kernel_cases(*dtypes: torch.dtype) -> list[Case]:
    cases = []
    for number, shape in enumerate(SHAPES):
        for dtype in dtypes:
            cases.append(Case(*shape, dtype, normalize=number % 2 == 0))
            cases.append(Case(*shape, dtype, clip=5.0, normalize=number % 2 == 1))
    first, *_ = dtypes
    cases += [Case(3, segments, 16, first) for segments in range(2, 17)]
    cases += [
        Case(5, 4, 40, first, layout=layout, normalize=True)
        for layout in ("segments first", "every other", "expanded")
    ]
    cases.append(Case(2, 3, 1100, first, normalize=True))
    cases.append(Case(5, 3, 16, first, index=torch.int32))
    # Scaled similarities up to 200: exponentials that overflow if written carelessly.
    cases.append(Case(5, 4, 16, first, temperature=0.01))
    return cases


INTERPRETED_CASES = kernel_cases(torch.float32, torch.float16)
NUM_REPEATED = 8


def make_inputs(case: Case, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """x, shuffled [B, S, D] and permutation [B, S], the same on every call."""
    generator = torch.Generator().manual_seed(case.batch * 1000 + case.segments * 100 + case.dim)
    shape = (case.batch, case.segments, case.dim)
    x = torch.randn(shape, generator=generator)
    order = torch.rand(case.batch, case.segments, generator=generator).argsort(dim=1)
    # Related to x, so that some rows are ranked right and others wrong.
    related = x + 1.5 * torch.randn(shape, generator=generator)
    shuffled = related.take_along_dim(order[:, :, None], dim=1)
    if not case.normalize:
        x, shuffled = F.normalize(x, dim=2), F.normalize(shuffled, dim=2)
    x, shuffled = (_lay_out(t.to(case.dtype).to(device), case.layout) for t in (x, shuffled))
    return x, shuffled, order.to(case.index).to(device)


def _lay_out(x: Tensor, layout: str) -> Tensor:
    if layout == "segments first":
        return x.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "every other":
        return x.repeat_interleave(2, dim=2)[:, :, ::2]
    if layout == "expanded":
        return x[:1].expand(x.shape)
    return x.contiguous()


def evaluate(
    function: Callable[..., RankResult], case: Case, inputs: tuple[Tensor, Tensor, Tensor]
) -> Outcome:
    """Loss, accuracy and gradients of `function` at `inputs`."""
    x, shuffled = (t.detach().requires_grad_() for t in inputs[:2])
    result = function(
        x,
        shuffled,
        inputs[2],
        temperature=case.temperature,
        clip=case.clip,
        normalize=case.normalize,
    )
    grads = torch.autograd.grad(UPSTREAM * result.loss, (x, shuffled))
    return Outcome(result.loss.detach(), result.accuracy, *grads)


def assert_right(ours: Outcome, case: Case, device: str = "cpu") -> None:
    """Our error against float64 on the same rounded inputs is at most eager's and the tolerance."""
    inputs = make_inputs(case, device)
    eager = evaluate(reference.shuffle_rank_loss_with_metrics, case, inputs)
    truth = evaluate(
        reference.shuffle_rank_loss_with_metrics,
        case,
        (inputs[0].double(), inputs[1].double(), inputs[2]),
    )
    for name, our, naive, exact in zip(Outcome._fields, ours, eager, truth, strict=True):
        # The loss and the accuracy are float32 even for half-precision inputs.
        tolerance = TOLERANCE[our.dtype] * exact.abs().max()
        assert_no_worse_than_eager(our.to(device), naive, exact, tolerance, name)
    assert ours.grad_x.dtype == ours.grad_shuffled.dtype == case.dtype


def interpreted_outcome(case: Case) -> tuple[Tensor, ...]:
    """What the kernels give, every number of it written, without a warning of an overflow."""
    inputs = make_inputs(case)
    with poisoned_empty(), warnings.catch_warnings():
        warnings.simplefilter("error")
        return tuple(evaluate(shuffle_rank_loss_with_metrics, case, inputs))


def launches_of(case: Case) -> int:
    """How many kernels a case launches, forward and backward."""
    with triton_launches() as launches:
        interpreted_outcome(case)
    return len(launches)
