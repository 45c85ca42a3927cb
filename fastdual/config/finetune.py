"""What sets a fine-tuning run up, or a linear probe; sections as in `fastdual.config.sections`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastdual.config.recipe import Resolved, build, flatten, read_recipe, read_toml
from fastdual.config.sections import (
    RESUME_KEYS,
    DataConfig,
    OptimiserConfig,
    RunConfig,
    ScheduleConfig,
)
from fastdual.errors import InputError
from fastdual.loaders.plan import ClipSpec
from fastdual.model.encoder import VideoEncoder
from fastdual.run.folder import RunFolder

DEFAULT_RECIPE = "paper-finetune-k400"
# What the pretrained network and the kind of run decide.
FIXED_KEYS = frozenset(
    {
        "clip.mode",
        "clip.base_probability",
        "clip.reverse_probability",
        "optimiser.accumulate_chunks",
    }
)
_FROM_SOURCE = ("frames_per_clip", "resize_height", "resize_width", "crop_size")
_SOURCE_KEYS = ("model.backbone", "model.weights")


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

    def to_dict(self) -> dict[str, Any]:
        """Plain values by dotted key, as checkpoints keep them."""
        return {key: value for key, value in flatten(self).items() if key not in FIXED_KEYS}


def resolve_finetune(
    folder: RunFolder,
    encoder: VideoEncoder,
    *,
    recipe: str | None,
    flags: Mapping[str, tuple[str, Any]],
    settings: tuple[str, ...],
    resume: bool,
) -> Resolved[FinetuneConfig]:
    """The config of a new run, or of the one to go on with.

    Clips have the size that the network was pretrained on, unless the recipe or a setting says
    otherwise.

    Args:
        folder: the run's folder.
        encoder: the network to start from.
        recipe: name or file; None: the run's own config when there is one, else the paper's.
        flags: dotted key and value that each command line flag gives.
        settings: texts `key=value`; they win over flags, flags over the recipe.
        resume: go on with the run that the folder may hold.

    Raises:
        InputError: a bad recipe or setting; a folder that holds a run already; a resumed run that
            is given other weights, or another value of what decides what is computed.
    """
    if folder.holds_run and not resume:
        raise InputError(
            f"--run {folder.path}: holds a run already; add --resume to go on with it, or choose "
            "another folder"
        )
    clip = {f"clip.{name}": getattr(encoder.config.clip, name) for name in _FROM_SOURCE}
    fixed = {
        "model.backbone": encoder.config.model.backbone,
        "model.weights": encoder.weights_sha256,
    }
    by_flag = [(flag, {key: value}) for flag, (key, value) in flags.items()]
    stored = _stored(folder)
    below: list[tuple[str, Mapping[str, Any]]] = [("SOURCE", clip)]
    if recipe is not None or stored is None:
        below.append(read_recipe(recipe or DEFAULT_RECIPE))
    else:
        below = [(f"run {folder.path.name}", stored)]
    asked = _build([*below, *by_flag], settings, fixed)
    if stored is None:
        return asked
    before, wanted = _build([("run", stored)], (), {}).config.to_dict(), asked.config.to_dict()
    for key, value in before.items():
        if value != wanted[key] and key not in RESUME_KEYS:
            raise InputError(
                f"{key} is {value!r} in the run {folder.path} and {wanted[key]!r} from "
                f"{asked.sources[key]}: a resumed run keeps its settings; leave it away, or start "
                "another run folder"
            )
    return asked


def _stored(folder: RunFolder) -> dict[str, Any] | None:
    if not folder.config_file.exists():
        return None
    stored = read_toml(folder.config_file)
    if "model.weights" not in stored:
        raise InputError(f"--run {folder.path}: holds a pretraining run; choose another folder")
    return stored


def _build(
    layers: list[tuple[str, Mapping[str, Any]]],
    settings: tuple[str, ...],
    fixed: Mapping[str, Any],
) -> Resolved[FinetuneConfig]:
    for setting in settings:
        if setting.partition("=")[0].strip() in _SOURCE_KEYS:
            raise InputError(f"--set {setting}: SOURCE decides it; name another SOURCE")
    return build(
        FinetuneConfig, [*layers, ("SOURCE", fixed)], settings=settings, fixed_keys=FIXED_KEYS
    )
