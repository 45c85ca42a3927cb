"""What people say they want of a loader: videos named in any way, clips by keyword."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch

from fastdual.errors import InputError, shown
from fastdual.loaders.index import VideoIndex, index_files, open_index
from fastdual.loaders.index.paths import VIDEO_SUFFIXES
from fastdual.loaders.plan import ClipSpec

Videos = VideoIndex | str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""An index; a folder, CSV file, index file, pack or video; or a list of videos."""

_FIELDS = {field.name for field in fields(ClipSpec)} - {"clips_per_video", "num_segments"}
_VIEWS = {"independent": 2, "evaluate": 1}  # modes with any number of views, and the usual one
_RANDOM = ("jitter_probability", "blur_probability", "flip_probability")


def open_videos(videos: Videos) -> VideoIndex:
    """Return the index of videos, however they are named.

    Raises:
        InputError: They are missing or cannot be used.
    """
    if isinstance(videos, VideoIndex):
        return videos
    if not isinstance(videos, str | os.PathLike | Sequence) or videos == "":
        raise InputError(
            f"videos is {shown(videos)}: name a folder, a list, an index, a pack or a video"
        )
    if isinstance(videos, str | os.PathLike):
        return open_index(Path(videos))
    if not videos:
        raise InputError("the list of videos is empty: name at least one")
    return index_files([Path(video) for video in videos])


def is_video(videos: object) -> bool:
    """Return whether this names one video, not a set of them."""
    return isinstance(videos, str | os.PathLike) and Path(videos).suffix.lower() in VIDEO_SUFFIXES


def clip_spec(
    spec: ClipSpec | None, clip: Mapping[str, Any], *, is_transformed: bool = False
) -> ClipSpec:
    """Return the clips that are asked for, by a spec or by keywords.

    Args:
        spec: Complete, or None.
        clip: Fields of ClipSpec and `num_views`, without a spec.
        is_transformed: Leave colours, blur and mirroring to the user's own transform.

    Raises:
        TypeError: There is no such keyword, or there are both.
        InputError: A value does not fit.
    """
    if spec is not None:
        if not isinstance(spec, ClipSpec):
            raise TypeError(f"spec is {spec!r}; must be a ClipSpec, and all else goes by keyword")
        if clip:
            raise TypeError(f"give {', '.join(clip)} inside the ClipSpec, not beside it")
        return spec
    unknown = [name for name in clip if name not in _FIELDS | {"num_views"}]
    if unknown:
        known = ", ".join(sorted(_FIELDS | {"num_views"}))
        raise TypeError(f"unknown keyword {unknown[0]!r}; what a clip can be told: {known}")
    chosen: dict[str, Any] = dict.fromkeys(_RANDOM, 0.0) if is_transformed else {}
    chosen |= {"mode": "independent", **clip}
    if chosen["mode"] in _VIEWS:
        views = chosen.pop("num_views", _VIEWS[chosen["mode"]])
        if not isinstance(views, int) or views < 1:
            raise InputError(f"num_views = {views!r}: must be a whole number, at least 1")
        chosen["clips_per_video"] = views
    elif "num_views" in chosen:
        raise TypeError(f"num_views: mode {chosen['mode']!r} has its own number of views")
    crop = clip.get("crop_size")
    if isinstance(crop, int) and crop > 0 and not {"resize_height", "resize_width"} & set(clip):
        chosen["resize_height"] = _scaled(ClipSpec.resize_height, crop)
        chosen["resize_width"] = _scaled(ClipSpec.resize_width, crop)
    return ClipSpec(**chosen)


def _scaled(length: int, crop_size: int) -> int:
    """Return a length that lies to the crop as in the paper; rounded up, so that the crop fits."""
    return -(-length * crop_size // ClipSpec.crop_size)


def check_counts(**counts: Any) -> None:
    """Refuse what is no whole number from 1 on, by name; None stands for a number of ours.

    Raises:
        InputError: Names the argument and its value.
    """
    for name, value in counts.items():
        if value is not None and not (isinstance(value, Integral) and int(value) >= 1):
            raise InputError(f"{name} is {value!r}; must be a whole number, at least 1")


def check_others(dtype: Any, seed: Any, timeout_seconds: Any, transform: Any) -> None:
    """Refuse other arguments of ClipLoader that cannot be meant.

    Raises:
        InputError: Names the argument and its value.
    """
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise InputError(f"dtype is {dtype!r}; choose torch.float32, torch.float16 or bfloat16")
    if not isinstance(seed, Integral):
        raise InputError(f"seed is {seed!r}; must be a whole number in [0, 2**64)")
    if not (isinstance(timeout_seconds, Real) and float(timeout_seconds) > 0):
        raise InputError(f"timeout_seconds is {timeout_seconds!r}; must be above 0")
    if transform is not None and not callable(transform):
        raise InputError(f"transform is {transform!r}; must be a function of a view [T, 3, H, W]")


def known_device(device: str | torch.device) -> torch.device:
    """Return a device.

    Raises:
        InputError: It is unknown, or not here.
    """
    try:
        known = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device {device!r} is unknown; use cpu, cuda or cuda:0") from error
    if known.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {device!r}: there is no CUDA device here; use cpu")
    return known


def clip_device(device: str | torch.device) -> torch.device:
    """Return the device for clips, with its number.

    Raises:
        InputError: It is unknown, not here, or no place for clips.
    """
    known = known_device(device)
    if known.type not in ("cpu", "cuda"):
        raise InputError(f"device {device!r} cannot load clips; use cpu or cuda")
    return torch.device("cuda", known.index or 0) if known.type == "cuda" else known
