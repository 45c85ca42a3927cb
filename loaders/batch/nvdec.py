"""What the video decoders of a GPU (NVDEC) can decode, asked of the driver before a video is.

The driver's library `libnvcuvid.so.1` answers for each codec, chroma format and bit depth
(`cuvidGetDecoderCaps` of the NVIDIA Video Codec SDK). A container without the capability `video`
does not have it.
"""

from __future__ import annotations

import ctypes
import functools
import re
from typing import Any

import torch

from fastdual.loaders.batch.kinds import Kind

_LIBRARY = "libnvcuvid.so.1"
# libav's names to the numbers of `cudaVideoCodec` and `cudaVideoChromaFormat`.
_CODECS = {"mpeg4": 2, "h264": 4, "hevc": 8, "vp8": 9, "vp9": 10, "av1": 11}
_CHROMA = {"yuv420p": 1, "yuvj420p": 1, "yuv422p": 2, "yuvj422p": 2, "yuv444p": 3, "gray": 0}
_PIXEL_FORMAT = re.compile(r"([a-z]+(?:4\d\dp)?)(\d+)?(?:le|be)?")


class _Capabilities(ctypes.Structure):
    """`CUVIDDECODECAPS`: three questions, the answers, and what is reserved."""

    _fields_ = [
        ("codec", ctypes.c_int),
        ("chroma", ctypes.c_int),
        ("depth_minus_8", ctypes.c_uint),
        ("reserved_1", ctypes.c_uint * 3),
        ("is_supported", ctypes.c_ubyte),
        ("num_engines", ctypes.c_ubyte),
        ("output_formats", ctypes.c_ushort),
        ("max_width", ctypes.c_uint),
        ("max_height", ctypes.c_uint),
        ("max_macroblocks", ctypes.c_uint),
        ("min_width", ctypes.c_ushort),
        ("min_height", ctypes.c_ushort),
        ("reserved_2", ctypes.c_uint * 11),
    ]


def load_library() -> Any:
    """Return the driver's library; raises OSError where there is none."""
    return ctypes.CDLL(_LIBRARY)


def why_no_nvdec() -> str | None:
    """Return why there is no NVDEC here and what helps, or None."""
    try:
        load_library()
    except OSError:
        return (
            f"{_LIBRARY} is not found; in a container, set "
            "NVIDIA_DRIVER_CAPABILITIES=compute,utility,video"
        )
    return None


class Nvdec:
    """The decoders of one GPU; each question is put to the driver once.

    Args:
        device: A CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._library, self._device = load_library(), device
        self._ask = functools.cache(self._ask_driver)

    def why_not(self, kind: Kind) -> str | None:
        """Return why a kind of video cannot be decoded, or None if it can."""
        layout = _PIXEL_FORMAT.fullmatch(kind.pixel_format)
        chroma = _CHROMA.get(layout[1]) if layout is not None else None
        codec = _CODECS.get(kind.codec)
        if layout is None or chroma is None or codec is None:
            return f"NVDEC decodes no {kind.codec} of {kind.pixel_format}"
        can = self._ask(codec, chroma, int(layout[2] or 8))
        if isinstance(can, str):
            return can
        if not can.is_supported:
            return f"this GPU's NVDEC decodes no {kind.codec} of {kind.pixel_format}"
        width, height = kind.coded_size
        fits = can.min_width <= width <= can.max_width
        fits &= can.min_height <= height <= can.max_height
        if not fits or width * height // 256 > can.max_macroblocks:
            return f"this GPU's NVDEC refuses {kind.codec} of {kind.width}x{kind.height}"
        return None

    def num_engines(self) -> int:
        """Return the number of engines that decode H.264, 0 where none does."""
        can = self._ask(_CODECS["h264"], 1, 8)
        return 0 if isinstance(can, str) else can.num_engines

    def _ask_driver(self, codec: int, chroma: int, depth: int) -> _Capabilities | str:
        can = _Capabilities(codec=codec, chroma=chroma, depth_minus_8=depth - 8)
        with torch.cuda.device(self._device):
            torch.cuda.current_stream().synchronize()  # the driver answers in a context alone
            status = self._library.cuvidGetDecoderCaps(ctypes.byref(can))
        return can if status == 0 else f"NVDEC does not answer (CUDA error {status})"
