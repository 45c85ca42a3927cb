"""What is sampled from a video, and how it is augmented: the settings of a plan.

Letters: T frames per clip, V augmented views, S segments.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Literal

from fastdual.errors import InputError

# Of pretraining: views 0 and 2 show the first clip, 1 the second; view 3 is view 2, shuffled.
ALL_VIEWS = (0, 1, 2, 3)
_CLIP_OF = {0: 0, 1: 1, 2: 0}


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """What is sampled from a video and how it is augmented; the defaults are the paper's.

    Mode `pretrain` yields `views`: 0 and 2 of one clip, 1 of another, and 3, the shuffled view 2;
    `finetune` one augmented clip; `evaluate` `clips_per_video` clips, centre crop, nothing random;
    `independent` `clips_per_video` clips, each drawn and augmented by itself, as SimCLR's views.
    """

    mode: Literal["pretrain", "finetune", "evaluate", "independent"] = "pretrain"
    views: tuple[int, ...] = ALL_VIEWS
    frames_per_clip: int = 16
    frame_stride: int = 4
    num_segments: int = 2
    resize_height: int = 128
    resize_width: int = 171
    crop_size: int = 112
    clips_per_video: int = 10
    base_probability: float = 0.8
    jitter_probability: float = 0.64
    brightness: tuple[float, float] = (0.2, 1.8)
    contrast: tuple[float, float] = (0.2, 1.8)
    contrast_about: Literal["mean", "128"] = "mean"
    """Contrast turns about the mean grey of the clip, or about 128, which blanks dark videos."""
    saturation: tuple[float, float] = (0.2, 1.8)
    hue_degrees: tuple[float, float] = (-72.0, 72.0)
    blur_probability: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    reverse_probability: float = 0.5
    flip_probability: float = 0.5
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of each channel, RGB in 0..1, which is subtracted; ImageNet's."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Deviation of each channel, which is divided by."""
    short_start: Literal["random", "first"] = "random"
    """Where a fine-tuning clip starts in a shorter video: below `frame_stride`, or at frame 0."""

    def __post_init__(self) -> None:
        for text, keys in self._faults():
            raise InputError(text, keys=keys)

    def _faults(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield what cannot work, and the settings that are to blame."""
        for name, choices in _WORDS.items():
            if getattr(self, name) not in choices:
                yield f"{name} = {getattr(self, name)!r}: choose {', '.join(choices)}", (name,)
        for name in _COUNTS:
            value = getattr(self, name)
            if not isinstance(value, int) or not 1 <= value <= _MAX_COUNT:
                yield f"{name} = {value!r}: must be a whole number from 1 to {_MAX_COUNT}", (name,)
        for name in _PROBABILITIES:
            if not 0.0 <= getattr(self, name) <= 1.0:
                yield f"{name} = {getattr(self, name)}: must lie in [0, 1]", (name,)
        for name in _RANGES:
            low, high = getattr(self, name)
            if not low <= high or (low < 0 and name != "hue_degrees"):
                yield f"{name} = ({low}, {high}): give (low, high), neither negative", (name,)
        if self.mode == "pretrain" and self.frames_per_clip % self.num_segments:
            yield (
                f"frames_per_clip {self.frames_per_clip} is not divisible by num_segments "
                f"{self.num_segments}; choose a number of segments that divides it",
                ("frames_per_clip", "num_segments"),
            )
        if self.crop_size > min(self.resize_height, self.resize_width):
            yield (
                f"crop_size {self.crop_size} is larger than the resized frame "
                f"{self.resize_height}x{self.resize_width}; crop less or resize to more",
                ("crop_size", "resize_height", "resize_width"),
            )
        if self.mode == "pretrain" and self.views not in _VIEW_SETS:
            yield f"views {self.views}: choose one of {', '.join(map(str, _VIEW_SETS))}", ("views",)
        if not all(-1e6 < value < 1e6 for value in self.mean) or min(self.std) < 1e-6:
            yield f"mean {self.mean}, std {self.std}: std must be positive", ("mean", "std")
        if 3 * self.blur_sigma[1] >= self.crop_size:
            yield (
                f"blur_sigma {self.blur_sigma[1]} reaches beyond the crop of {self.crop_size} "
                "pixels; keep it below a third of crop_size",
                ("blur_sigma", "crop_size"),
            )

    @property
    def clip_shape(self) -> tuple[int, int, int]:
        """T, H, W of a clip."""
        return self.frames_per_clip, self.crop_size, self.crop_size

    @property
    def view_clip(self) -> tuple[int, ...]:
        """For each augmented view, the clip that it shows."""
        if self.mode == "pretrain":
            return tuple(_CLIP_OF[view] for view in self.augmented_views)
        return (0,) if self.mode == "finetune" else tuple(range(self.clips_per_video))

    @property
    def most_frames(self) -> int:
        """Frames of one video in all its clips, at most."""
        return (1 + max(self.view_clip)) * self.frames_per_clip

    @property
    def augmented_views(self) -> tuple[int, ...]:
        """The views of pretraining without the shuffled one."""
        return tuple(view for view in self.views if view in _CLIP_OF)

    @property
    def is_shuffled(self) -> bool:
        """Whether the last view is the one before it with its segments in another order."""
        return self.mode == "pretrain" and self.views != self.augmented_views

    @property
    def is_flipped(self) -> bool:
        return self.mode in ("finetune", "independent")

    @property
    def is_blurred(self) -> bool:
        return self.mode in ("pretrain", "independent")

    @property
    def num_views(self) -> int:
        """Views of a batch."""
        return len(self.view_clip) + self.is_shuffled


_VIEW_SETS = ((0, 1), (0, 2, 3), ALL_VIEWS)  # of contrasts, of ranking, of both
_WORDS = {
    "mode": ("pretrain", "finetune", "evaluate", "independent"),
    "contrast_about": ("mean", "128"),
    "short_start": ("random", "first"),
}
_COUNTS = tuple(f.name for f in fields(ClipSpec) if f.type == "int")
_MAX_COUNT = 8192  # frames or pixels: a typing error ends here, not in memory
_PROBABILITIES = tuple(f.name for f in fields(ClipSpec) if f.name.endswith("_probability"))
_RANGES = ("brightness", "contrast", "saturation", "hue_degrees", "blur_sigma")
