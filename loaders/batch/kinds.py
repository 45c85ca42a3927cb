"""Kinds of videos, and which of them DALI decodes to the pictures that PyAV decodes.

Frame i is the same picture for every decoder, so what DALI 2.4 would count or colour in another way
is left to PyAV. The facts are the index's; no file is opened here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastdual.loaders.index.table import VideoIndex

_DALI_CPU_CODECS = {"vp8", "vp9", "mjpeg"}
_NVDEC_CODECS = {"h264", "hevc", "vp8", "vp9", "mpeg4", "av1"}
# NVDEC refuses smaller pictures (width, height); the limits of the generation with the largest.
_NVDEC_SMALLEST = {"hevc": (144, 144), "vp9": (128, 128), "av1": (128, 128), "h264": (48, 16)}
_BT601_MATRICES = (2, 5, 6)  # libav's numbers; 2 is "not stated"


class Kind(NamedTuple):
    """What decides whether a decoder works: videos of one kind fail, or are right, together.

    Attributes:
        codec, profile, pixel_format: libav's names.
        height, width: Of the decoded picture. Those that are equal only in their coded size, a
            multiple of 16, are two kinds: DALI 2.4 may take one's decoder for the other.
    """

    codec: str
    profile: str
    pixel_format: str
    height: int
    width: int

    @property
    def coded_size(self) -> tuple[int, int]:
        """Width and height in whole macroblocks."""
        return -(-self.width // 16) * 16, -(-self.height // 16) * 16

    def __str__(self) -> str:
        words = (self.codec, self.profile, self.pixel_format, f"{self.width}x{self.height}")
        return " ".join(word for word in words if word)


def kinds_of(index: VideoIndex) -> list[Kind]:
    """Return the kind of every video; equal ones are one object."""
    known: dict[Kind, Kind] = {}
    sizes = index.size.tolist()
    facts = zip(index.codecs, index.profiles, index.pixel_formats, sizes, strict=True)
    made = (Kind(codec, profile, pixels, *size) for codec, profile, pixels, size in facts)
    return [known.setdefault(kind, kind) for kind in made]


def why_not_kind(decoder: str, kind: Kind) -> str | None:
    """Return why DALI decodes no video of a kind by nvdec or dali-cpu, on whatever machine."""
    codec, width, height = kind.codec, kind.width, kind.height
    if decoder == "dali-cpu":
        return None if codec in _DALI_CPU_CODECS else f"DALI decodes no {codec} on a CPU"
    if codec not in _NVDEC_CODECS:
        return f"NVDEC decodes no {codec}"
    smallest_width, smallest_height = _NVDEC_SMALLEST.get(codec, (0, 0))
    if width < smallest_width or height < smallest_height:
        return f"NVDEC refuses {codec} of {width}x{height}"
    return None


def why_not_files(decoder: str, index: VideoIndex) -> list[str | None]:
    """Return, for every video, why DALI would not show its frames as PyAV does, or None."""
    codecs, known = np.array(index.codecs), np.array([bool(p) for p in index.pixel_formats])
    # In MPEG-4, a packet may hold two pictures and the next one none; DALI takes them apart.
    uneven = (index.num_packets != index.num_frames) & (codecs != "mpeg4")
    reasons = {
        "its index, by an older fastdual, does not say enough: index or pack it again": ~known,
        "DALI leaves out frames whose time is missing or negative": (
            (index.num_untimed > 0) | (index.first_pts < 0)
        ),
        "its packets do not hold one frame each": uneven,
        "DALI converts by BT.601, it states another colour matrix": (
            ~np.isin(index.colour_spaces, _BT601_MATRICES)
        ),
    }
    if decoder == "nvdec":
        reasons |= {
            "DALI keeps 32 bits of its times, which have more": (
                np.maximum(np.abs(index.first_pts), np.abs(index.last_pts)) >= 1 << 31
            ),
            "DALI miscounts HEVC of open groups": (codecs == "hevc") & (index.open_gop != 0),
            "DALI miscounts frames that are shown twice (show_existing_frame)": (
                index.num_repeats > 0
            ),
        }
    texts = [*reasons, None]
    first = np.select(list(reasons.values()), list(range(len(reasons))), len(reasons))
    return [texts[number] for number in first.tolist()]
