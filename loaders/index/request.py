"""What people say they want of a loader: videos named in any way, clips by keyword."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from fastdual.errors import InputError
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
        chosen["clips_per_video"] = chosen.pop("num_views", _VIEWS[chosen["mode"]])
    elif "num_views" in chosen:
        raise TypeError(f"num_views: mode {chosen['mode']!r} has its own number of views")
    if "crop_size" in clip and not {"resize_height", "resize_width"} & set(clip):
        chosen["resize_height"] = _scaled(ClipSpec.resize_height, clip["crop_size"])
        chosen["resize_width"] = _scaled(ClipSpec.resize_width, clip["crop_size"])
    return ClipSpec(**chosen)


def _scaled(length: int, crop_size: int) -> int:
    """Return a length that lies to the crop as in the paper; rounded up, so that the crop fits."""
    return -(-length * crop_size // ClipSpec.crop_size)
