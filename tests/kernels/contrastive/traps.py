"""Inputs on which a careless contrastive softmax goes wrong."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from fastdual.kernels.contrastive import contrastive_loss, contrastive_loss_with_metrics
from fastdual.kernels.contrastive.op import steps_on
from fastdual.kernels.contrastive.problem import Problem, Settings
from tests.kernels.contrastive.cases import Case, make_inputs
from tests.numerics import poisoned_empty

# Elements between rows. The first is no int32 itself; with the second, only its product with 2 is.
FAR_STRIDES = 2**31 + 64, 2**30 + 64


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


def with_a_row_of_zeros(function: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    """Losses and gradient of rows to be normalised of which one has no length."""
    rows = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))
    rows[2] = 0
    ids, groups = torch.tensor([0, 0, 1, 1]), torch.arange(4)
    loss = function(
        rows.requires_grad_(), rows, ids, ids, query_groups=groups, key_groups=groups,
        temperature=0.5, reduction="none", normalize=True,
    )  # fmt: skip
    (grad,) = torch.autograd.grad(loss.sum(), rows)
    return loss.detach(), grad


def fused_with_a_row_of_zeros() -> tuple[Tensor, Tensor]:
    """The same of our op."""
    return with_a_row_of_zeros(contrastive_loss)


def at_perfect_positives(exponent: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Sum of losses and 16,384 times its gradient, of rows whose negative is so much lower."""
    rows = torch.eye(2, 16, dtype=dtype, requires_grad=True)
    ids = torch.arange(2)
    loss = contrastive_loss(
        rows, torch.eye(2, 16, dtype=dtype), ids, ids, temperature=1 / exponent, reduction="sum"
    )
    (grad,) = torch.autograd.grad(loss * 16384, rows)
    return loss.detach(), grad


def ties() -> tuple[Tensor, Tensor]:
    """top1 and top5 of three rows: negatives as high as the best positive, one higher, five higher.

    Small integers, so that equal logits are equal bit by bit.
    """
    query = torch.eye(3, 16)
    key = torch.zeros(12, 16)
    key[:6, 0] = torch.tensor([2.0, 2, 2, 2, 2, 1])
    key[:2, 1] = torch.tensor([2.0, 3])
    key[:6, 2] = torch.tensor([2.0, 3, 3, 3, 3, 3])
    key_ids = torch.tensor([0, *range(1, 12)])
    result = contrastive_loss_with_metrics(
        query, key, torch.zeros(3, dtype=torch.int64), key_ids, temperature=1.0
    )
    return result.top1, result.top5


def fields_without_slope() -> Tensor:
    """What the forward gathers under a temperature that is a tensor, of which no gradient is asked.

    Memory that nothing was stored to is NaN.
    """
    inputs = make_inputs(Case(33, 40, 16))
    settings = Settings("mean", normalize=True, metrics=False)
    with poisoned_empty(), steps_on(inputs.query) as steps:
        return steps.compute_partials(Problem(*inputs, torch.tensor(0.1), 1.0, settings)).fields


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


def far_rows(stride: int) -> tuple[Tensor, Tensor]:
    """Loss and gradient of rows so far apart; not within poisoned_empty, which writes to all."""
    return loss_and_gradient(contrastive_loss, rows_apart(stride))
