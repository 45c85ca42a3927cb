"""The plan: every random decision of a batch, drawn on the host as plain arrays.

Nothing here opens a video. A row of a plan is a function of (seed, epoch, video) and of the video's
length alone, so the clips do not depend on the batch, the rank or the number of processes.

Letters: B videos, K distinct clips per video, T frames per clip, V augmented views, S segments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdual.errors import InputError
from fastdual.loaders.plan.clip_spec import ClipSpec
from fastdual.loaders.plan.random_words import random_words

# The draws of one row, in order. A draw keeps its place whatever the probabilities are, so that
# changing one setting changes nothing else.
_CENTRES, _REVERSE, _BASE, _VIEWS = 0, 2, 3, 4
_DRAWS_PER_VIEW = 10  # jitter or not, its 4 values, blur or not, sigma, crop y, crop x, flip
_PERMUTATION = _VIEWS + 3 * _DRAWS_PER_VIEW
_IDENTITY_JITTER = (1.0, 1.0, 1.0, 0.0)
_MAX_WORD = 2**64

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ClipPlan:
    """The decisions for B videos.

    Attributes:
        videos: [B] index numbers.
        frames: [B, K, T] frame indices, already reversed where that was drawn.
        view_clip: The clip of each of the V augmented views.
        crop_y, crop_x: [B, V] top left corner of the crop in the resized frame, in pixels.
        jitter: [B, V, 4] brightness, contrast, saturation (factors) and hue (degrees).
        blur_sigma: [B, V] in pixels; 0 where the view is not blurred.
        flip: [B, V] mirrored left to right.
        permutation: [B, S], or None; shuffled segment i is segment permutation[i] of view 2.
    """

    videos: Ints
    frames: Ints
    view_clip: tuple[int, ...]
    crop_y: Ints
    crop_x: Ints
    jitter: Floats
    blur_sigma: Floats
    flip: NDArray[np.bool_]
    permutation: Ints | None = None

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, rows: slice | Ints) -> ClipPlan:
        """Return the plan of some of the videos: a slice or an array of row numbers."""
        values = {name: array[rows] for name, array in self._row_arrays().items()}
        return ClipPlan(**values, view_clip=self.view_clip)

    @staticmethod
    def concatenate(plans: Sequence[ClipPlan]) -> ClipPlan:
        """Join plans of one spec, in order."""
        parts = [plan._row_arrays() for plan in plans]
        values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return ClipPlan(**values, view_clip=plans[0].view_clip)

    def to_arrays(self) -> dict[str, Any]:
        """Return plain arrays for `np.savez`; `from_arrays` makes the plan of them again."""
        return {**self._row_arrays(), "view_clip": np.array(self.view_clip, dtype=np.int64)}

    @staticmethod
    def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> ClipPlan:
        """Make the plan of what `to_arrays` returned, or of what `np.load` returns for it."""
        values: Any = {name: np.asarray(arrays[name]) for name in arrays}
        view_clip = tuple(int(clip) for clip in values.pop("view_clip"))
        return ClipPlan(**values, view_clip=view_clip)

    def _row_arrays(self) -> dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "view_clip"}
        return {name: array for name, array in values.items() if array is not None}


def draw_plan(spec: ClipSpec, *, seed: int, epoch: int, videos: Ints, num_frames: Ints) -> ClipPlan:
    """Draw every random decision for these videos in this epoch.

    Args:
        spec: What to draw.
        seed, epoch: Whole numbers in [0, 2**64).
        videos: [B] index numbers.
        num_frames: [B] number of frames of each.

    Raises:
        InputError: A number is out of range, or a video has no frames.
    """
    if not (0 <= seed < _MAX_WORD and 0 <= epoch < _MAX_WORD):
        raise InputError(f"seed {seed} and epoch {epoch} must lie in [0, 2**64)")
    videos, num_frames = np.asarray(videos, np.int64), np.asarray(num_frames, np.int64)
    if (num_frames < 1).any():
        video = int(videos[np.argmax(num_frames < 1)])
        raise InputError(f"video {video} has no frames; build the index again")
    own = (1 + _DRAWS_PER_VIEW) * spec.num_views if spec.mode == "independent" else 0
    words = random_words((seed, epoch), videos, _PERMUTATION + (own or spec.num_segments))
    # Floats in [0, 1), on the 2**-53 grid that numpy's generators use.
    draws = (words >> np.uint64(11)) * np.float64(2.0**-53)
    frames = _FRAMES[spec.mode](spec, draws, num_frames)
    values = _draw_augmentation(spec, draws)
    permutation = None
    if spec.is_shuffled:
        # Sorting independent words orders the segments uniformly over all S! permutations.
        permutation = np.argsort(words[:, _PERMUTATION:], axis=1, kind="stable").astype(np.int64)
    return ClipPlan(
        videos=videos, frames=frames, view_clip=spec.view_clip, permutation=permutation, **values
    )


def _pretrain_clips(spec: ClipSpec, draws: Floats, num_frames: Ints) -> Ints:
    """Take clips around centres anywhere in the video; past an end, its frame repeats."""
    num_clips = 1 + max(spec.view_clip)
    centres = (draws[:, _CENTRES : _CENTRES + num_clips] * num_frames[:, None]).astype(np.int64)
    steps = np.arange(spec.frames_per_clip) - spec.frames_per_clip // 2
    frames = centres[:, :, None] + steps * spec.frame_stride
    frames = np.clip(frames, 0, num_frames[:, None, None] - 1)
    backwards = draws[:, _REVERSE] < spec.reverse_probability
    clips: Ints = np.where(backwards[:, None, None], frames[:, :, ::-1], frames)
    return clips


def _finetune_clips(spec: ClipSpec, draws: Floats, num_frames: Ints) -> Ints:
    """Take one clip; a video that is too short repeats its first or its last frame."""
    starts = num_frames - spec.frames_per_clip * spec.frame_stride
    if_short = spec.frame_stride if spec.short_start == "random" else 1
    start = (draws[:, _CENTRES] * np.where(starts > 0, starts, if_short)).astype(np.int64)
    frames = start[:, None] + np.arange(spec.frames_per_clip) * spec.frame_stride
    last = num_frames[:, None] - 1
    # "00000369": the frames that do not exist go to the front, where frame 0 is repeated.
    missing = (frames > last).sum(axis=1, keepdims=True) * spec.frame_stride
    at_front = draws[:, _CENTRES + 1, None] < 0.5
    clip: Ints = np.clip(np.where(at_front, frames - missing, frames), 0, last)
    return clip[:, None, :]


def _evaluate_clips(spec: ClipSpec, draws: Floats, num_frames: Ints) -> Ints:
    """Take clips at evenly spaced centres; past the end the last frame repeats."""
    span = spec.frames_per_clip * spec.frame_stride
    low = np.minimum(span // 2, num_frames)
    high = np.maximum(low, num_frames - span // 2)
    centres = np.linspace(low, high, spec.clips_per_video, axis=1)
    starts = np.maximum(0, np.trunc(centres - span // 2)).astype(np.int64)
    frames = starts[:, :, None] + np.arange(spec.frames_per_clip) * spec.frame_stride
    clips: Ints = np.minimum(frames, num_frames[:, None, None] - 1)
    return clips


def _view_clips(spec: ClipSpec, draws: Floats, num_frames: Ints) -> Ints:
    """Take a clip anywhere for each view; past the end of a short video its last frame repeats."""
    starts = np.maximum(num_frames - (spec.frames_per_clip - 1) * spec.frame_stride, 1)[:, None]
    start = (draws[:, _PERMUTATION : _PERMUTATION + spec.num_views] * starts).astype(np.int64)
    frames = start[:, :, None] + np.arange(spec.frames_per_clip) * spec.frame_stride
    clips: Ints = np.minimum(frames, num_frames[:, None, None] - 1)
    return clips


_FRAMES = {
    "pretrain": _pretrain_clips,
    "finetune": _finetune_clips,
    "evaluate": _evaluate_clips,
    "independent": _view_clips,
}


def _draw_augmentation(spec: ClipSpec, draws: Floats) -> dict[str, Any]:
    num_rows, num_views = len(draws), len(spec.view_clip)
    margin_y, margin_x = spec.resize_height - spec.crop_size, spec.resize_width - spec.crop_size
    if spec.mode == "evaluate":
        return {
            "crop_y": np.full((num_rows, num_views), (margin_y + 1) // 2),
            "crop_x": np.full((num_rows, num_views), (margin_x + 1) // 2),
            "jitter": np.tile(_IDENTITY_JITTER, (num_rows, num_views, 1)),
            "blur_sigma": np.zeros((num_rows, num_views)),
            "flip": np.zeros((num_rows, num_views), np.bool_),
        }
    first = _PERMUTATION + num_views if spec.mode == "independent" else _VIEWS
    places = np.array(spec.augmented_views if spec.mode == "pretrain" else range(num_views))
    columns = first + places[:, None] * _DRAWS_PER_VIEW + np.arange(_DRAWS_PER_VIEW)
    d = np.take(draws, columns, axis=1)  # [B, V, draws], dense as DALI asks
    base = np.ones((num_rows, num_views), np.bool_)
    if spec.mode == "pretrain":
        base[:, 0] = draws[:, _BASE] < spec.base_probability
    low, high = np.transpose([spec.brightness, spec.contrast, spec.saturation, spec.hue_degrees])
    least, most = spec.blur_sigma
    jittered = base & (d[..., 0] < spec.jitter_probability)
    blurred = base & (d[..., 5] < spec.blur_probability) & spec.is_blurred
    return {
        "crop_y": (d[..., 7] * (margin_y + 1)).astype(np.int64),
        "crop_x": (d[..., 8] * (margin_x + 1)).astype(np.int64),
        "jitter": np.where(jittered[..., None], low + d[..., 1:5] * (high - low), _IDENTITY_JITTER),
        "blur_sigma": np.where(blurred, least + d[..., 6] * (most - least), 0.0),
        "flip": np.asarray((d[..., 9] < spec.flip_probability) & spec.is_flipped),
    }
