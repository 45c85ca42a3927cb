"""A pretraining run from start to end: checks first, then the run folder, then the loop."""

import platform
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastdual._version import __version__
from fastdual.config.recipe import Resolved
from fastdual.config.sections import RESUME_KEYS, PretrainConfig, RunConfig
from fastdual.distributed.signals import StopRequest
from fastdual.distributed.team import Team, World, joined
from fastdual.errors import FailureError, InputError
from fastdual.kernels.backend import runs_triton
from fastdual.loaders.batch.decoder import available_cpus
from fastdual.loaders.index import VideoIndex
from fastdual.loaders.loader import ClipLoader
from fastdual.model.batch_norm import synchronise_batch_norm
from fastdual.model.dual import DualModel, create_model
from fastdual.model.recompute import recompute_activations
from fastdual.run.checkpoint import find_checkpoint, load_weights
from fastdual.run.folder import RunFolder
from fastdual.run.log import RunLog, require_wandb
from fastdual.run.progress import ProgressLine
from fastdual.training.announce import describe_run
from fastdual.training.bf16_check import require_bf16
from fastdual.training.collapse import CollapseWatch
from fastdual.training.execution import Execution, choose_execution, explained_memory
from fastdual.training.loop import Training, train
from fastdual.training.recorder import AgreedStop, RunKeeper
from fastdual.training.schedule import base_learning_rate, create_optimiser, learning_rate
from fastdual.training.step import PretrainStep, create_objective

_LESS_MEMORY = (
    "use a smaller --batch-size, optimiser.accumulate_chunks=2 or more, or "
    "run.recompute_activations=on with run.compile=off"
)


@dataclass(frozen=True)
class PretrainResult:
    """How a run ended: its newest checkpoint, and the signal that ended it early, if one did."""

    checkpoint: Path
    step: int
    total_steps: int
    signal_number: int | None


def choose_split(index: VideoIndex, wanted: str) -> str | None:
    """The split that `data.split` means for an index; None is every video."""
    if wanted == "auto":
        return "train" if "train" in index.splits else None
    return None if wanted == "all" else wanted


def require_kernels(backend: str, execution: Execution) -> None:
    """Raise an InputError if losses are to be fused where the kernels cannot run."""
    if backend == "fused" and not runs_triton(torch.empty(0, device=execution.device)):
        raise InputError(
            f"--losses fused: the kernels need Triton and a CUDA device, this run is on "
            f"{execution.device}; use --losses auto"
        )


def pretrain(
    index: VideoIndex,
    folder: RunFolder,
    resolved: Resolved[PretrainConfig],
    *,
    world: World,
    announce: Callable[[str], None],
) -> PretrainResult:
    """Pretrain on an index, from the newest checkpoint of the folder if it holds one.

    Args:
        index: the videos.
        folder: where everything is kept.
        resolved: the config, with the origin of each value.
        world: which process of how many this is.
        announce: told, line by line, what is going to be done.

    Raises:
        InputError: before anything is written, if the parts do not fit each other.
        FailureError: the disk is full, too many videos fail, or the loss is not finite.
    """
    config = resolved.config
    require_wandb(config.run.wandb_project)
    execution = choose_execution(config.run, world)
    require_kernels(config.loss.backend, execution)
    split = choose_split(index, config.data.split)
    num_videos = len(index.split(split))
    if config.data.batch_size > num_videos:
        raise InputError(
            f"data.batch_size = {config.data.batch_size}: larger than the data, which has "
            f"{num_videos} videos; use --batch-size {num_videos} or less"
        )
    torch.manual_seed(config.run.seed)
    model = create_model(config)
    identity = {"fingerprint": index.fingerprint, "split": split, "num_videos": num_videos}
    constants = {"config": config.to_dict(), "data": identity, "versions": current_versions()}
    timeout = config.run.timeout_seconds
    with (
        closing(create_loader(index, split, config, execution, world, folder)) as loader,
        joined(world, device=execution.device, timeout_seconds=timeout) as team,
        explained_memory(execution.device, _LESS_MEMORY),
        ExitStack() as claim,
    ):
        team.check_equal(constants)
        # Before the folder is claimed: what does not fit into memory leaves no run there.
        training = create_training(model, loader, config, execution, team)
        team.from_main(lambda: claim.enter_context(folder.claimed(resolved)))
        if execution.bf16:
            require_bf16(model.backbone, config.clip.clip_shape, execution.device)
        restored = restore(training, folder, constants, team)
        for line in describe_run(index, training, resolved, execution, split, restored, world):
            announce(line)
        collapse = CollapseWatch(config.loss.clip_temperature, steps_per_epoch=len(loader))
        return run_loop(training, folder, config.run, constants, team, collapse=collapse)


def create_loader(
    index: VideoIndex,
    split: str | None,
    config: PretrainConfig,
    execution: Execution,
    world: World,
    folder: RunFolder,
) -> ClipLoader:
    """The loader of a config; clips come in the precision that the network computes in."""
    return ClipLoader(
        index,
        config.clip,
        batch_size=config.data.batch_size,
        split=split,
        seed=config.run.seed,
        rank=world.rank,
        world_size=world.size,
        device=str(execution.device),
        decode=config.data.decode,
        dtype=torch.bfloat16 if execution.bf16 else torch.float32,
        num_workers=config.data.num_workers or max(1, available_cpus() // world.local_size),
        prefetch=config.data.prefetch,
        quarantine_path=folder.quarantine_file,
    )


def create_training(
    model: DualModel,
    loader: ClipLoader,
    config: PretrainConfig,
    execution: Execution,
    team: Team | None = None,
) -> Training:
    """Put model, objective and optimiser on the device, at step 0; no team is one process."""
    several = team is not None and team.world.size > 1
    if several:
        synchronise_batch_norm(model)
    if execution.is_cuda:
        model.to(execution.device)
        nn.utils.convert_conv3d_weight_memory_format(model, torch.channels_last_3d)
        # Every batch has the same shape, so the search for the fastest convolution pays.
        torch.backends.cudnn.benchmark = True
    objective = create_objective(config, model).to(execution.device)
    if (
        config.run.recompute_activations == "on"
    ):  # after MoCo has copied the model: keys need no gradient
        recompute_activations(model.backbone)
    optimiser = create_optimiser(
        nn.ModuleList([model, objective]),
        config.optimiser,
        fused=execution.is_cuda,
        several=several,
    )
    return Training(
        model=model,
        objective=objective,
        optimiser=optimiser,
        loader=loader,
        compute=PretrainStep(
            model, objective, execution, num_chunks=config.optimiser.accumulate_chunks
        ),
        rate=lambda step: learning_rate(
            step,
            config.schedule,
            base_rate=base_learning_rate(config.optimiser, batch_size=config.data.batch_size),
            steps_per_epoch=len(loader),
        ),
        total_steps=config.schedule.epochs * len(loader),
        max_gradient_norm=config.optimiser.max_gradient_norm,
        average=team.average if team is not None and several else None,
    )


def restore(
    training: Training, folder: RunFolder, constants: dict[str, Any], team: Team
) -> Path | None:
    """Load the newest whole checkpoint of the folder, if there is one; returns its file.

    Args:
        training: takes up the state.
        folder: of the run.
        constants: what this run's own checkpoints hold beside the state.
        team: all processes, which start from one file.

    Raises:
        InputError: it was made from other data, with other settings, or of another model.
    """
    # Read once, so that all processes start from one file whatever each would have found.
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
                f"{version}: the run goes on, but not to the last bit as it would have there",
                stacklevel=2,
            )
    return path


def _check_origin(state: dict[str, Any], path: Path, own: dict[str, Any]) -> None:
    """Raise an InputError unless a checkpoint is whole and of the run with our own constants."""
    missing = [name for name in (*Training.STATE, *own) if name not in state]
    if missing:
        raise InputError(
            f"{path}: holds no {', '.join(missing)}, so this fastdual cannot go on from it; use "
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


def run_loop(
    training: Training,
    folder: RunFolder,
    config: RunConfig,
    constants: dict[str, Any],
    team: Team,
    *,
    collapse: CollapseWatch | None = None,
) -> PretrainResult:
    """Train to the end, or until a signal asks for a stop; both leave a checkpoint."""
    first_step, total_steps = training.step, training.total_steps
    with ExitStack() as stack:
        stop = stack.enter_context(StopRequest())
        log, line = None, None
        if team.is_main:
            project = config.wandb_project
            opened = RunLog(folder.path, start_step=first_step, wandb_project=project)
            log = stack.enter_context(closing(opened))
            stack.callback(folder.finish_saving)  # it writes to the log, whatever ends the run
            line = stack.enter_context(ProgressLine(total_steps=total_steps, start_step=first_step))
            log.event("start", step=first_step, total_steps=total_steps)
        keeper = RunKeeper(folder, log, line, constants, config.keep_checkpoints, team, collapse)
        signals = AgreedStop(stop, team)
        with _failure_logged(log, training, folder):
            complete = train(
                training,
                keeper,
                log_every_steps=config.log_every_steps,
                checkpoint_every_steps=config.checkpoint_every_steps,
                should_stop=signals,
            )
        signal_number = None if complete else signals.number
        if log is not None:
            log.event("end", step=training.step, complete=complete, signal=signal_number)
    newest = team.from_main(lambda: find_checkpoint(folder.path))
    return PretrainResult(newest, training.step, total_steps, signal_number)


@contextmanager
def _failure_logged(log: RunLog | None, training: Training, folder: RunFolder) -> Iterator[None]:
    """Note in the log what ended the block, so that `fastdual runs` tells it from a kill."""
    try:
        yield
    except Exception as error:
        folder.finish_saving()  # its line in the log comes before the last
        reason = str(error).partition("\n")[0] or type(error).__name__
        if log is not None:
            with suppress(FailureError):  # a full disk may be what ended it
                log.event("failed", step=training.step, reason=reason)
        raise


def current_versions() -> dict[str, str]:
    """Versions that results depend on."""
    return {
        "fastdual": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
