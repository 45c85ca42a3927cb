"""Which decoder a loader uses, and what it takes of the machine.

`nvdec` and `dali-cpu` decode encoded bytes inside the DALI graph; `pyav` decodes and scales in
worker processes, which augment as well for a CPU and feed the graph with frames for a GPU. A
decoder that is asked for by name decodes every video, or the run ends with the reason. With `auto`,
PyAV decodes what the other cannot (`batch.routing`), and says why. What is decoded for a GPU is
augmented there, by DALI's operators or by one Triton kernel.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, get_args

from fastdual.errors import InputError
from fastdual.loaders.batch.nvdec import why_no_nvdec

Decoder = Literal["nvdec", "dali-cpu", "pyav"]
Requested = Literal["auto", "nvdec", "dali-cpu", "pyav"]
Augment = Literal["dali", "triton"]
RequestedAugment = Literal["auto", "dali", "triton"]

_NVDEC_SESSIONS = 16


@dataclass(frozen=True)
class DecodeChoice:
    """The decoder of a loader, why it is this one, and whether PyAV may take its place."""

    decoder: Decoder
    reason: str
    is_strict: bool = False


def choose_decoder(
    requested: Requested, device: str, augment: RequestedAugment = "auto"
) -> DecodeChoice:
    """Choose the decoder for a device.

    Args:
        requested: A decoder, or "auto" for the fastest that decodes every usual codec.
        device: Type of the device: "cpu" or "cuda".
        augment: Who is asked for to augment on a GPU: with Triton, PyAV does without DALI.

    Raises:
        InputError: The name is unknown, or the device does not have this decoder.
    """
    on_gpu = device.startswith("cuda")
    if requested not in get_args(Requested):
        names = ", ".join(get_args(Requested))
        raise InputError(f"decode is {requested!r}; choose one of {names}")
    if requested == "nvdec" and not on_gpu:
        raise InputError(f"decode nvdec needs a CUDA device, not {device!r}; use auto or pyav")
    if requested == "dali-cpu" and on_gpu:
        raise InputError("decode dali-cpu runs on a CPU; on a CUDA device use auto, nvdec or pyav")
    without_dali = requested == "pyav" and (augment == "triton" or not on_gpu)
    if (on_gpu or requested == "dali-cpu") and not (without_dali or _has("nvidia.dali")):
        what = f"device {device!r}" if on_gpu else "decode dali-cpu"
        raise InputError(
            f'{what} needs DALI, which is not installed: run pip install ".[gpu]" in fastdual\'s '
            'checkout, or ".[gpu-cu12]" for CUDA 12; a CPU without it decodes with pyav'
        )
    why_not = why_no_nvdec() if on_gpu and requested in ("auto", "nvdec") else None
    if requested == "nvdec" and why_not is not None:
        raise InputError(f"decode nvdec cannot be used: {why_not}; or use auto or pyav")
    if requested != "auto":
        return DecodeChoice(requested, "as asked", is_strict=requested != "pyav")
    if why_not is not None:
        return DecodeChoice("pyav", f"NVDEC cannot be used: {why_not}")
    if on_gpu:
        return DecodeChoice("nvdec", "the GPU's decoders leave the CPU and the training alone")
    return DecodeChoice(
        "pyav", "DALI on a CPU knows neither H.264 nor HEVC nor MPEG-4, PyAV decodes them all"
    )


def choose_augment(requested: RequestedAugment, device: str, decoder: Decoder) -> Augment:
    """Choose who makes the views that workers do not make: on a CPU, PyAV's workers make theirs.

    Args:
        requested: "auto" is DALI, until a GPU has shown that the kernel is faster.
        device: Type of the device.
        decoder: The decoder that was chosen.

    Raises:
        InputError: The name is unknown, or it cannot be used here.
    """
    if requested not in get_args(RequestedAugment):
        names = ", ".join(get_args(RequestedAugment))
        raise InputError(f"augment is {requested!r}; choose one of {names}")
    if requested == "auto":
        return "dali"
    on_gpu = device.startswith("cuda")
    if not on_gpu and decoder == "pyav":
        raise InputError(
            f"augment {requested} cannot be used: on a CPU, PyAV's workers augment; use auto"
        )
    if requested == "triton" and not (on_gpu or os.environ.get("TRITON_INTERPRET") == "1"):
        raise InputError(f"augment triton needs a CUDA device, not {device!r}; use auto")
    if requested == "triton" and not _has("triton"):
        raise InputError("augment triton needs Triton, which is not installed; use auto")
    return requested


def _has(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # nor is the package above it
        return False


def graph_threads(decoder: Decoder, num_cpus: int) -> int:
    """Return the number of DALI's threads for a process with so many CPUs to itself.

    To NVDEC, DALI gives each sample a decoding session on one of its threads, a session uses one
    engine, and most of the time the thread waits for it. The largest chips have seven or eight
    engines. Where PyAV decodes for a GPU, no operator of the graph runs on a CPU.
    """
    if decoder == "pyav":
        return 1
    half = max(1, num_cpus // 2)
    return max(half, _NVDEC_SESSIONS) if decoder == "nvdec" else half
