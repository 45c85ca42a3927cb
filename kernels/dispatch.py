"""Where eager or fused is chosen, and the words that a caller chooses with."""

import warnings
from typing import Literal

import torch
from torch import Tensor

from fastdual.kernels.backend import KERNEL_DTYPES, MAX_KERNEL_DIM, runs_triton
from fastdual.kernels.checks import check_choice

Backend = Literal["auto", "eager", "fused"]
Gather = Literal["all", "ring"] | None


def takes_reference(backend: str, x: Tensor) -> bool:
    """Return whether a loss is computed by kernels/reference.py, and not by its fused op.

    The fused op itself runs Triton kernels where it can (backend.runs_triton), and the same steps
    as torch operations elsewhere.

    Args:
        backend: See fastdual.losses.
        x: One of the embeddings.

    Raises:
        ValueError: Unknown backend, or "fused" where the kernels cannot run.
    """
    check_choice("backend", backend, ("auto", "eager", "fused"))
    if backend == "fused" and not runs_triton(x):
        raise ValueError(
            f"backend is 'fused' but embeddings are {x.dtype} on {x.device}, D = {x.shape[-1]}: "
            "the kernels need Triton, a CUDA device of capability 8.0 or newer, float32, "
            f"float16 or bfloat16, and D of at most {MAX_KERNEL_DIM}; use 'auto'"
        )
    if backend == "auto" and x.is_cuda and x.shape[-1] > MAX_KERNEL_DIM:
        _tell_of_width(x.shape[-1])
    return backend == "eager"


def _tell_of_width(dim: int) -> None:
    if not torch.compiler.is_compiling():  # a warning would end the graph
        warnings.warn(
            f"embeddings have D = {dim}, more than the {MAX_KERNEL_DIM} of the fused kernels: the "
            "loss is computed by torch operations over tiles, slower and with the same result",
            stacklevel=2,
        )


def widen_mixed(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return tensors of several dtypes as float32 under autocast, as torch's own losses do.

    All others are returned as they are.
    """
    # Other dtypes, such as integers, are for the checks to refuse.
    narrow = all(isinstance(tensor, Tensor) and tensor.dtype in KERNEL_DTYPES for tensor in tensors)
    mixed = narrow and len({tensor.dtype for tensor in tensors}) > 1
    if mixed and torch.is_autocast_enabled(tensors[0].device.type):
        return tuple(tensor.float() for tensor in tensors)
    return tensors
