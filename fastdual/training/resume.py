"""Whether a run is resumed: the config that it continues with, and its newest checkpoint."""

import platform
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from fastdual._version import __version__
from fastdual.config import FinetuneConfig, PretrainConfig, resolve
from fastdual.config.finetune import FIXED_KEYS as FINETUNE_FIXED_KEYS
from fastdual.config.recipe import Layer, Resolved, build, parse_toml, read_recipe, read_toml
from fastdual.config.sections import ScheduleConfig, TrainingConfig
from fastdual.config.stored import LENGTH_KEYS, RESUME_KEYS, supported
from fastdual.distributed.team import Team
from fastdual.errors import InputError, contents_of, first_line, shown
from fastdual.loaders.files import write
from fastdual.model.encoder import VideoEncoder
from fastdual.run.checkpoint import load_weights
from fastdual.run.folder import RunFolder
from fastdual.training.data_change import rebase
from fastdual.training.loop import Training

PRETRAIN_RECIPE, FINETUNE_RECIPE = "paper-simclr", "paper-finetune-k400"
_FINETUNE_RECIPES = {"tiny": "tiny-finetune"}  # of backbones that the paper's do not suit
# What SOURCE, the pretrained network, decides of a fine-tuning run.
_CLIP_NAMES = ("frames_per_clip", "resize_height", "resize_width", "crop_size", "mean", "std")

_EPOCHS, _WARMUP = "schedule.epochs", "schedule.warmup_epochs"

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
    if any(setting.partition("=")[0].strip() == "model.init" for setting in request.settings):
        raise InputError("--set model.init: only --init FILE sets it")
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
    recipe = _FINETUNE_RECIPES.get(pretrained.model.backbone, FINETUNE_RECIPE)
    layers = _layers(folder, stored, request, recipe)
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
    origin, values = read_recipe(request.recipe or default)
    if request.recipe is None and stored is not None:
        origin, values = f"run {folder.path.name}", dict(stored)
    elif stored is None:
        values = _with_fitting_warmup(values, request)
    flags = ((flag, {key: value}) for flag, (key, value) in request.flags.items())
    return [(origin, values), *flags]


def _with_fitting_warmup(values: Mapping[str, Any], request: ConfigRequest) -> dict[str, Any]:
    """Return a recipe whose warm-up follows the epochs that are asked for, where they are fewer."""
    asked = [value for key, value in request.flags.values() if key == _EPOCHS]
    settings = dict(text.replace(" ", "").partition("=")[::2] for text in request.settings)
    asked += [
        int(text)
        for key, text in settings.items()
        if key == _EPOCHS and text.isdecimal() and len(text) < 10
    ]
    warmup, epochs = values.get(_WARMUP, 0), values.get(_EPOCHS, ScheduleConfig().epochs)
    if not asked or _WARMUP in settings or not 0 < asked[-1] <= warmup < epochs:
        return dict(values)
    return {**values, _WARMUP: warmup * asked[-1] / epochs}


def _check_kept(before: TrainingConfig, asked: Resolved[C], folder: RunFolder) -> None:
    """Raise an InputError where a resumed run is given another value that decides its results."""
    wanted = asked.config.to_dict()
    for key, value in before.to_dict().items():
        if value != wanted[key] and key not in RESUME_KEYS | LENGTH_KEYS:
            raise InputError(
                f"{key} is {value!r} in the run {folder.path} and {wanted[key]!r} from "
                f"{asked.sources[key]}: a resumed run keeps its settings; leave it out, or start "
                "another run folder"
            )


def restore(
    training: Training,
    folder: RunFolder,
    constants: dict[str, Any],
    team: Team,
    accept_data_changes: bool = False,
) -> Path | None:
    """Load the newest whole checkpoint of the folder and return its file; None: there is none.

    Args:
        training: Takes the state.
        folder: Of the run.
        constants: What this run's own checkpoints hold beside the state.
        team: All processes, which start from the same file.
        accept_data_changes: Go on from a checkpoint of other data, in a new order.

    Raises:
        InputError: It was made from other data, with other settings, or of another model.
    """
    # Rank 0 reads and sends: each process might find another file.
    found = team.from_main(folder.load_newest)
    if found is None:
        return None
    path, state = found
    with contents_of(path, "remove it, and --resume continues from the one before"):
        if accept_data_changes and state.get("data", constants["data"]) != constants["data"]:
            state = rebase(state, training.loader, constants["data"])
        _check_origin(state, path, constants)
        load_weights(training.model, state["model"], origin=path)
        try:
            training.load_state_dict(state)
        except InputError as error:  # of the loader, which does not know the file
            raise InputError(f"{path}: {first_line(error)}") from None
        _check_values(training, path)
        versions = {name: state["versions"].get(name) for name in current_versions()}
    for name, version in current_versions().items() if team.is_main else ():
        if versions[name] != version:
            warnings.warn(
                f"{path}: was written under {name} {shown(versions[name])}, this is "
                f"{version}: the run continues, but not to the last bit as it would have there",
                stacklevel=2,
            )
    return path


def follow_length(training: Training, folder: RunFolder, epochs: int) -> str | None:
    """Keep a number of epochs that is not the one of config.toml; return a line about it, if so.

    Raises:
        InputError: The run has done more than that.
        FailureError: The config cannot be written.
    """
    text = folder.config_file.read_text("utf-8")
    before = parse_toml(text, origin=str(folder.config_file)).get(_EPOCHS)
    if before == epochs:
        return None
    step, last = training.step, training.total_steps
    if step > last:
        done = step / len(training.loader)
        raise InputError(
            f"schedule.epochs = {epochs}: the run in {folder.path} has done {done:g} already; "
            "ask for more, or start another run folder"
        )
    changed = re.sub(r"(?m)^epochs = .*$", f"epochs = {epochs}  # --epochs", text)
    write(folder.config_file, changed, "the config")
    rates = f"learning rate {training.rate(step):.2g} from here, {training.rate(last - 1):.2g} last"
    return f"schedule  {epochs} epochs in place of {before}; {rates}"


def _check_values(training: Training, path: Path) -> None:
    """Raise an InputError where a state that was loaded cannot be that of a run."""
    order, steps = training.loader.state_dict(), len(training.loader)
    place = order["epoch"] * steps + order["step"]
    if type(training.step) is not int or training.step != place:
        raise InputError(
            f"{path}: was written after step {shown(training.step)}, and its order of the videos "
            f"stands at step {place}: it was altered; remove it, and --resume continues from the "
            "one before"
        )
    kept = [*training.objective.state_dict().items()]
    kept += [
        (f"optimiser {name}", value)
        for state in training.optimiser.state.values()
        for name, value in state.items()
    ]
    for name, value in kept:
        if isinstance(value, Tensor) and not bool(torch.isfinite(value).all()):
            raise InputError(
                f"{path}: {name} holds values that are not finite, which no run saves; remove it, "
                "and --resume continues from the one before"
            )


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
            f"{path}: was trained on other data ({shown(state['data']['num_videos'])} videos, "
            f"split {shown(state['data']['split'])}); name the same DATA, or go on with these, in "
            "a new order: --accept-data-changes"
        )
    # The run's config.toml, which options were compared with, may have been lost or edited.
    for key, value in own["config"].items():
        before = state["config"].get(key, value)
        if before != value and key not in RESUME_KEYS | LENGTH_KEYS:
            raise InputError(
                f"{path}: was trained with {key} = {shown(before)}, and config.toml or the command "
                f"line says {value!r} now: put that right, or start another run folder"
            )


def current_versions() -> dict[str, str]:
    """Return the versions that results depend on, by name."""
    return {
        "fastdual": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
