"""Fused losses: Triton kernels and their eager truth. Needs torch alone."""

from fastdual.kernels.contrastive.op import contrastive_loss, contrastive_loss_with_metrics
from fastdual.kernels.results import ContrastiveResult, RankResult
from fastdual.kernels.shuffle_rank.op import shuffle_rank_loss, shuffle_rank_loss_with_metrics

__all__ = [
    "ContrastiveResult",
    "RankResult",
    "contrastive_loss",
    "contrastive_loss_with_metrics",
    "shuffle_rank_loss",
    "shuffle_rank_loss_with_metrics",
]
