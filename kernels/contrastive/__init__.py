"""The multi-positive contrastive softmax."""

from fastdual.kernels.contrastive.loss import contrastive_loss, contrastive_loss_with_metrics
from fastdual.kernels.contrastive.problem import Layout, Positives, Precision, Reduction

__all__ = [
    "Layout",
    "Positives",
    "Precision",
    "Reduction",
    "contrastive_loss",
    "contrastive_loss_with_metrics",
]
