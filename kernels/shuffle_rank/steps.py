"""The shuffle-rank loss as torch operations, in the steps of its kernels; in float32 at least.

Unlike the kernels (triton.py) they do hold G [B, 2S, 2S]. op.py holds the formula and the legend of
shape letters.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from fastdual.kernels.shuffle_rank.problem import Problem


class _Pairs(NamedTuple):
    """All pairs of rows: [B, 2S, 2S] except z [B, 2S, D] and scale [B, 2S, 1]."""

    z: Tensor
    scale: Tensor
    similarity: Tensor
    is_match: Tensor
    is_other: Tensor
    violation: Tensor


def forward(problem: Problem) -> tuple[Tensor, Tensor]:
    """Return loss and accuracy, 0-d each."""
    pairs = _compare(problem)
    violation = pairs.violation
    if problem.clip is not None:
        violation = violation.clamp(max=problem.clip)
    softplus = torch.logaddexp(violation, torch.zeros_like(violation))
    loss = torch.where(pairs.is_other, softplus, 0.0).sum()
    # A match beats all others where every violation is below zero.
    first = (~pairs.is_other | (pairs.violation < 0)).all(dim=2)
    return loss / problem.num_pairs, first.float().mean()


def backward(upstream: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and shuffled, [B, S, D] each; `upstream` is that of the loss."""
    pairs = _compare(problem)
    segments = problem.x.shape[1]
    slope = torch.where(pairs.is_other, pairs.violation.sigmoid(), 0.0)
    if problem.clip is not None:
        slope = torch.where(pairs.violation > problem.clip, 0.0, slope)
    slope = slope * (upstream / (problem.num_pairs * problem.temperature))
    slope = torch.where(pairs.is_match, -slope.sum(dim=2, keepdim=True), slope)
    mixing = slope + slope.transpose(1, 2)
    if problem.normalize:
        # Through z / |z|: the part of the gradient along z itself is taken out.
        along = (mixing * pairs.similarity).sum(dim=2)
        mixing = (mixing - along.diag_embed()) * pairs.scale * pairs.scale.transpose(1, 2)
    with torch.autocast(problem.x.device.type, enabled=False):
        grad = (mixing @ pairs.z).to(problem.x.dtype)
    # Copies: the outputs of an op may not share memory.
    return grad[:, :segments].clone(), grad[:, segments:].clone()


def _compare(problem: Problem) -> _Pairs:
    x, shuffled, permutation, temperature, _, normalize = problem
    z = torch.cat([x, shuffled], dim=1)
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    scale = z.new_ones(()).expand(*z.shape[:2], 1)
    if normalize:
        scale = 1.0 / z.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    with torch.autocast(z.device.type, enabled=False):
        similarity = (z @ z.transpose(1, 2)) * scale * scale.transpose(1, 2)
    in_order = torch.arange(x.shape[1], device=x.device).expand(permutation.shape)
    number = torch.cat([in_order, permutation], dim=1)  # [B, 2S]
    same = number.unsqueeze(2) == number.unsqueeze(1)
    itself = torch.eye(z.shape[1], dtype=torch.bool, device=x.device)
    is_match = same & ~itself
    match = torch.where(is_match, similarity, 0.0).sum(dim=2, keepdim=True)
    return _Pairs(z, scale, similarity, is_match, ~same, (similarity - match) / temperature)
