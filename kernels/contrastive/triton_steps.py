"""The steps of the contrastive softmax as Triton kernels; streaming.py has the same functions."""

from fastdual.kernels.contrastive.triton_backward import compute_gradients
from fastdual.kernels.contrastive.triton_forward import compute_partials, count_beaten
from fastdual.kernels.contrastive.triton_merge import merge_partials

__all__ = ["compute_gradients", "compute_partials", "count_beaten", "merge_partials"]
