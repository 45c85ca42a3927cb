"""Which decoder serves which file, and what it needs to know.

`nvdec` and `dali-cpu` decode encoded bytes inside the DALI graph; `pyav` decodes and scales in
worker processes, which augment as well for a CPU and feed the graph with frames for a GPU. A file
that DALI cannot decode, or whose frames it would number differently, goes through PyAV whatever
decoder was chosen, for a reason that is logged.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fastdual.errors import InputError
from fastdual.loaders.index.table import VideoIndex

Decoder = Literal["nvdec", "dali-cpu", "pyav"]
Requested = Literal["auto", "nvdec", "dali-cpu", "pyav"]

_DALI_CPU_CODECS = {"vp8", "vp9", "mjpeg"}
_NVDEC_SESSIONS = 16
_NVDEC_CODECS = {"h264", "hevc", "vp8", "vp9", "mpeg4", "av1"}
# NVDEC refuses smaller pictures (width, height); the limits of the generation with the largest.
_NVDEC_SMALLEST = {"hevc": (144, 144), "vp9": (128, 128), "av1": (128, 128), "h264": (48, 16)}


@dataclass(frozen=True)
class DecodeChoice:
    """The decoder of a loader, and why it is this one."""

    decoder: Decoder
    reason: str


def choose_decoder(requested: Requested, device: str) -> DecodeChoice:
    """Choose the decoder for a device.

    Args:
        requested: A decoder, or "auto" for the fastest that decodes every usual codec.
        device: Type of the device: "cpu" or "cuda".

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
    if (on_gpu or requested == "dali-cpu") and not _has_dali():
        what = f"device {device!r}" if on_gpu else "decode dali-cpu"
        raise InputError(
            f'{what} needs DALI, which is not installed: run pip install ".[gpu]" in fastdual\'s '
            'checkout, or ".[gpu-cu12]" for CUDA 12; a CPU without it decodes with pyav'
        )
    if requested != "auto":
        return DecodeChoice(requested, "as asked")
    if on_gpu:
        return DecodeChoice("nvdec", "the GPU's decoders leave the CPU and the training alone")
    return DecodeChoice(
        "pyav", "DALI on a CPU knows neither H.264 nor HEVC nor MPEG-4, PyAV decodes them all"
    )


def _has_dali() -> bool:
    try:
        return find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:  # nor is anything else of NVIDIA's
        return False


def why_not_dali(decoder: Decoder, index: VideoIndex, video: int) -> str | None:
    """Return why PyAV must decode a video, or None if the DALI graph can."""
    codec = index.codecs[video]
    height, width = (int(length) for length in index.size[video])
    if decoder == "pyav":
        return "pyav is the decoder"
    if decoder == "dali-cpu":
        return None if codec in _DALI_CPU_CODECS else f"DALI decodes no {codec} on a CPU"
    if codec not in _NVDEC_CODECS:
        return f"NVDEC decodes no {codec}"
    smallest_width, smallest_height = _NVDEC_SMALLEST.get(codec, (0, 0))
    if width < smallest_width or height < smallest_height:
        return f"NVDEC refuses {codec} of {width}x{height}"
    return None


def graph_threads(decoder: Decoder, num_cpus: int) -> int:
    """Return the number of DALI's threads: half the CPUs, but enough for all engines of NVDEC.

    DALI gives each sample a decoding session on one of its threads, a session uses one engine, and
    most of the time the thread waits for it. The largest chips have seven or eight engines.
    """
    half = max(1, num_cpus // 2)
    return max(half, _NVDEC_SESSIONS) if decoder == "nvdec" else half


# Weights of red and blue in luma, by libav's number of the matrix: BT.709 and BT.2020.
_LUMA_WEIGHTS = {1: (0.2126, 0.0722), 9: (0.2627, 0.0593)}
_BT601_MATRICES = {2, 5, 6}  # 2 is "not stated"
_BT601_WEIGHTS = (0.299, 0.114)


def colour_matrix(colour_space: int) -> NDArray[np.float64] | None:
    """Return the matrix that corrects DALI's colours, or None where the video's is unknown.

    DALI converts every video by BT.601 (the range it does read). For a video that states another
    matrix, one product undoes that conversion and does the right one.

    Args:
        colour_space: The matrix that the video states, by libav's number.

    Returns:
        [3, 3] from the RGB that DALI makes to the right RGB.
    """
    if colour_space in _BT601_MATRICES:
        return np.eye(3)
    if colour_space not in _LUMA_WEIGHTS:
        return None
    from_rgb = _rgb_to_yuv(*_LUMA_WEIGHTS[colour_space])
    matrix: NDArray[np.float64] = np.linalg.inv(from_rgb) @ _rgb_to_yuv(*_BT601_WEIGHTS)
    return matrix


def _rgb_to_yuv(red: float, blue: float) -> NDArray[np.float64]:
    luma = np.array([red, 1 - red - blue, blue])
    to_blue = (np.array([0, 0, 1]) - luma) / (2 * (1 - blue))
    to_red = (np.array([1, 0, 0]) - luma) / (2 * (1 - red))
    return np.stack([luma, to_blue, to_red])


def available_cpus() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0))
