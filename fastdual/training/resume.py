"""Whether a run is resumed: the config that it continues with, and its newest checkpoint."""

import platform
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from fastdual._version import __version__
from fastdual.config import FinetuneConfig, PretrainConfig, resolve
from fastdual.config.finetune import FIXED_KEYS as FINETUNE_FIXED_KEYS
from fastdual.config.recipe import Layer, Resolved, build, read_recipe, read_toml
from fastdual.config.sections import TrainingConfig
from fastdual.config.stored import RESUME_KEYS, supported
from fastdual.distributed.team import Team
from fastdual.errors import InputError
from fastdual.model.encoder import VideoEncoder
from fastdual.run.checkpoint import load_weights
from fastdual.run.folder import RunFolder
from fastdual.training.loop import Training

PRETRAIN_RECIPE, FINETUNE_RECIPE = "paper-simclr", "paper-finetune-k400"
# What SOURCE, the pretrained network, decides of a fine-tuning run.
_CLIP_NAMES = ("frames_per_clip", "resize_height", "resize_width", "crop_size")

C = TypeVar("C", bound=TrainingConfig)


@dataclass(frozen=True, kw_only=True)
class ConfigRequest:
    """What a command line says of a run's config.

    Attributes:
        recipe: Name or file; None: the run's own config where there is one, else the paper's.
        flags: Dotted key and value that each flag gives; they win over the recipe.
        settings: Texts `key=value`; they win over flags.
        resume: Go on with the run that the folder may hold.
    """

    recipe: str | None = None
    flags: Mapping[str, tuple[str, Any]] = field(default_factory=dict)
    settings: Sequence[str] = ()
    resume: bool = False


def resolve_pretrain(folder: RunFolder, request: ConfigRequest) -> Resolved[PretrainConfig]:
    """Return the config of a new pretraining run, or of the one to resume.

    Raises:
        InputError: A bad recipe or setting; a folder that holds a run already; a resumed run that
            is given another value of something that decides what is computed.
    """
    stored = _stored(folder, request)
    layers = _layers(folder, stored, request, PRETRAIN_RECIPE)
    asked = resolve(layers, request.settings)
    if stored is not None:
        _check_kept(resolve([("run", stored)]).config, asked, folder)
    return asked


def resolve_finetune(
    folder: RunFolder, request: ConfigRequest, encoder: VideoEncoder
) -> Resolved[FinetuneConfig]:
    """Return the config of a new fine-tuning run, or of the one to resume.

    Clips have the size that the network was pretrained on, unless the recipe or a setting says
    otherwise.

    Args:
        folder: The run's folder.
        request: What the command line says.
        encoder: The network to start from.

    Raises:
        InputError: As in `resolve_pretrain`; other weights than those of the resumed run; a
            setting of what the network decides.
    """
    stored = _stored(folder, request)
    if stored is not None and "model.weights" not in stored:
        raise InputError(f"--run {folder.path}: holds a pretraining run; choose another folder")
    pretrained = encoder.config
    clip = {f"clip.{name}": getattr(pretrained.clip, name) for name in _CLIP_NAMES}
    network = {
        "model.backbone": pretrained.model.backbone,
        "model.weights": encoder.weights_sha256,
    }
    for setting in request.settings:
        if setting.partition("=")[0].strip() in network:
            raise InputError(f"--set {setting}: SOURCE decides it; name another SOURCE")
    layers = _layers(folder, stored, request, FINETUNE_RECIPE)
    layers = [("SOURCE", clip), *layers, ("SOURCE", network)]
    build_config = partial(build, FinetuneConfig, fixed_keys=FINETUNE_FIXED_KEYS)
    asked = build_config(layers, settings=request.settings)
    if stored is not None:
        _check_kept(build_config([("run", stored)]).config, asked, folder)
    return asked


def _stored(folder: RunFolder, request: ConfigRequest) -> dict[str, Any] | None:
    """Return the values of the run that the folder holds, by dotted key, if it holds one."""
    if folder.holds_run and not request.resume:
        raise InputError(
            f"--run {folder.path}: holds a run already; add --resume to continue with it, or "
            "choose another folder"
        )
    return supported(read_toml(folder.config_file)) if folder.config_file.exists() else None


def _layers(
    folder: RunFolder, stored: Mapping[str, Any] | None, request: ConfigRequest, default: str
) -> list[Layer]:
    """Return the recipe, or the run's own config in its place, and the flags above it."""
    base = read_recipe(request.recipe or default)
    if request.recipe is None and stored is not None:
        base = (f"run {folder.path.name}", dict(stored))
    return [base, *((flag, {key: value}) for flag, (key, value) in request.flags.items())]


def _check_kept(before: TrainingConfig, asked: Resolved[C], folder: RunFolder) -> None:
    """Raise an InputError where a resumed run is given another value that decides its results."""
    wanted = asked.config.to_dict()
    for key, value in before.to_dict().items():
        if value != wanted[key] and key not in RESUME_KEYS:
            raise InputError(
                f"{key} is {value!r} in the run {folder.path} and {wanted[key]!r} from "
                f"{asked.sources[key]}: a resumed run keeps its settings; leave it away, or start "
                "another run folder"
            )


def restore(
    training: Training, folder: RunFolder, constants: dict[str, Any], team: Team
) -> Path | None:
    """Load the newest whole checkpoint of the folder and return its file; None: there is none.

    Args:
        training: Takes the state.
        folder: Of the run.
        constants: What this run's own checkpoints hold beside the state.
        team: All processes, which start from the same file.

    Raises:
        InputError: It was made from other data, with other settings, or of another model.
    """
    # Rank 0 reads and sends: each process might find another file.
    found = team.from_main(folder.load_newest)
    if found is None:
        return None
    path, state = found
    _check_origin(state, path, constants)
    load_weights(training.model, state["model"], origin=path)
    training.load_state_dict(state)
    for name, version in current_versions().items() if team.is_main else ():
        if state["versions"].get(name) != version:
            warnings.warn(
                f"{path}: was written under {name} {state['versions'].get(name)}, this is "
                f"{version}: the run continues, but not to the last bit as it would have there",
                stacklevel=2,
            )
    return path


def _check_origin(state: dict[str, Any], path: Path, own: dict[str, Any]) -> None:
    """Raise an InputError unless a checkpoint is whole and of the run with our own constants."""
    missing = [name for name in (*Training.STATE, *own) if name not in state]
    if missing:
        raise InputError(
            f"{path}: holds no {', '.join(missing)}, so this fastdual cannot continue from it; use "
            "the version that wrote it, or start another run folder"
        )
    if state["data"] != own["data"]:
        raise InputError(
            f"{path}: was trained on other data ({state['data']['num_videos']} videos, split "
            f"{state['data']['split']}); name the same DATA, or start another run folder"
        )
    # The run's config.toml, which options were compared with, may have been lost or edited.
    for key, value in own["config"].items():
        before = state["config"].get(key, value)
        if before != value and key not in RESUME_KEYS:
            raise InputError(
                f"{path}: was trained with {key} = {before!r}, and config.toml or the command line "
                f"says {value!r} now: put that right, or start another run folder"
            )


def current_versions() -> dict[str, str]:
    """Return the versions that results depend on, by name."""
    return {
        "fastdual": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
