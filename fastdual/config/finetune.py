"""The config of fine-tuning and of the linear probe; sections as in `fastdual.config.sections`."""

from dataclasses import dataclass, field, replace
from typing import Any

from fastdual.config.recipe import flatten
from fastdual.config.sections import (
    DataConfig,
    OptimiserConfig,
    RunConfig,
    ScheduleConfig,
)
from fastdual.loaders.plan import ClipSpec

# What the pretrained network and the kind of run decide.
FIXED_KEYS = frozenset(
    {
        "clip.mode",
        "clip.views",
        "clip.base_probability",
        "clip.reverse_probability",
        "optimiser.accumulate_chunks",
    }
)


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """The network under the linear classifier; name and weights come from the pretrained one."""

    backbone: str = "r2plus1d"
    weights: str = ""
    """sha256 of the file that they came from, or "random weights, seed N"."""
    freeze: bool = False
    """Train the classifier alone; the backbone, its batch norm included, stays as it is."""


@dataclass(frozen=True, kw_only=True)
class TestConfig:
    """The videos that are measured on at the end, by `clip.clips_per_video` clips each."""

    split: str = "test"


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Everything that decides what a fine-tuning run computes, section by section."""

    data: DataConfig = field(default_factory=DataConfig)
    clip: ClipSpec = field(default_factory=ClipSpec)
    model: ClassifierConfig = field(default_factory=ClassifierConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    run: RunConfig = field(default_factory=RunConfig)
    test: TestConfig = field(default_factory=TestConfig)

    def __post_init__(self) -> None:
        # One clip per video, augmented as fine-tuning does; no recipe can set it.
        object.__setattr__(self, "clip", replace(self.clip, mode="finetune"))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values by dotted key, as checkpoints keep them."""
        return {key: value for key, value in flatten(self).items() if key not in FIXED_KEYS}
