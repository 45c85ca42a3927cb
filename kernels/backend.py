"""Where a fused op runs: in its Triton kernels, or as the same steps of torch operations."""

import functools
import importlib.util
import os
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.autograd import forward_ad

KERNEL_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAX_KERNEL_DIM = 2048  # wider embeddings are computed by torch operations


@functools.cache
def has_triton() -> bool:
    """Return whether Triton is installed, without importing it."""
    return importlib.util.find_spec("triton") is not None


def runs_triton(x: Tensor) -> bool:
    """Return whether an op given `x` runs its kernels: on a CUDA device, or if TRITON_INTERPRET=1.

    The last axis of `x` is D, which the kernels have a limit for. Devices before compute capability
    8.0 have too little shared memory for the tiles. bfloat16 is not interpreted, because the
    interpreter of Triton 3.9 computes its products wrongly.
    """
    if not has_triton() or x.dtype not in KERNEL_DTYPES or x.shape[-1] > MAX_KERNEL_DIM:
        return False
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if interpreted:
        return x.dtype != torch.bfloat16
    return x.is_cuda and capability_of(x.device) >= 8


@functools.cache
def capability_of(device: torch.device) -> int:
    """Return the first number of the GPU's compute capability; 9 where kernels are interpreted."""
    return torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else 9


def refuse_transforms(*tensors: Tensor | None) -> None:
    """Raise a RuntimeError under torch.func and in forward mode, where torch drops derivatives.

    The ops have derivatives by torch.autograd alone; of a tangent torch would silently lose track.
    """
    if torch.compiler.is_compiling():
        return
    given = (x for x in tensors if x is not None)
    forward = any(forward_ad.unpack_dual(x).tangent is not None for x in given)  # type: ignore[no-untyped-call]
    if forward or torch._C._are_functorch_transforms_active():
        raise RuntimeError(
            "the fused losses cannot be transformed by torch.func (grad, vmap, jvp ...) nor "
            "differentiated in forward mode: use torch.autograd, or backend='eager', which can"
        )


def device_of(x: Tensor) -> AbstractContextManager[None]:
    """Make the device of `x` current: kernels are launched on the current device."""
    return torch.cuda.device_of(x)  # type: ignore[no-untyped-call]
