"""The shuffle-rank loss."""

from fastdual.kernels.shuffle_rank.loss import shuffle_rank_loss, shuffle_rank_loss_with_metrics

__all__ = ["shuffle_rank_loss", "shuffle_rank_loss_with_metrics"]
