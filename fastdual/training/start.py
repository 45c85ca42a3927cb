"""Starting a run: checks, the run's folder, the checkpoint to continue from, then the loop.

Every kind of training starts here in the same way; a `Task` says what differs between them.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastdual.backbones.padding import pad_for_gpu
from fastdual.config.recipe import to_toml
from fastdual.config.sections import TrainingConfig
from fastdual.distributed.share import limit_compilers, sharers_of
from fastdual.distributed.signals import StopRequest
from fastdual.distributed.team import Team, joined
from fastdual.distributed.world import World
from fastdual.errors import InputError
from fastdual.loaders.batch.decoded_by import DecodedBy
from fastdual.loaders.batch.graphs import leave_memory
from fastdual.loaders.index import VideoIndex
from fastdual.loaders.loader import ClipLoader
from fastdual.model.batch_norm import synchronise_batch_norm
from fastdual.model.recompute import recompute_activations
from fastdual.run.checkpoint import Kept, find_checkpoint
from fastdual.run.folder import RunFolder
from fastdual.run.log import RunLog, require_wandb
from fastdual.run.progress import ProgressLine
from fastdual.run.seen import note_videos
from fastdual.training.bf16_check import require_bf16
from fastdual.training.execution import Execution, choose_execution, explained_memory
from fastdual.training.loop import Training, train
from fastdual.training.memory import checkpoint_bytes, require_memory
from fastdual.training.optimisers import create_optimiser
from fastdual.training.recorder import AgreedStop, RunKeeper
from fastdual.training.resume import current_versions, follow_length, restore
from fastdual.training.schedule import base_learning_rate, learning_rate
from fastdual.training.task import Start, Task


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        model: The network, as trained.
        checkpoint: The newest one.
        step: Steps done.
        total_steps: Length of the run.
        signal_number: The signal that ended it early; None: it is complete.
    """

    model: nn.Module
    checkpoint: Path
    step: int
    total_steps: int
    signal_number: int | None


def run(
    task: Task,
    index: VideoIndex,
    folder: RunFolder,
    sources: Mapping[str, str],
    *,
    world: World,
    announce: Callable[[str], None],
    precondition: Callable[[], None] = lambda: None,
    accept_data_changes: bool = False,
) -> RunResult:
    """Train on an index, from the newest checkpoint of the folder if it holds one.

    Args:
        task: The kind of training, with its config.
        index: The videos.
        folder: Where everything is kept.
        sources: Origin of each value of the config, by dotted key.
        world: Which process of how many this is.
        announce: Called with each line of what is going to be done.
        precondition: Called on rank 0 before the folder is written; its error ends all processes.
        accept_data_changes: Go on from a checkpoint of other data, in a new order.

    Raises:
        InputError: Before anything is written, if the parts do not fit each other.
        FailureError: The disk is full, too many videos fail, or the loss is not finite.
    """
    config = task.config
    require_wandb(config.run.wandb_project)
    execution = choose_execution(config.run, world)
    limit_compilers(world)
    leave_memory(execution.device)
    split = choose_split(index, config.data.split)
    task.check(index, split, execution)
    num_videos = check_batch_size(index, split, config.data.batch_size)
    model = create_model(task)
    require_memory(model, task, execution, world)
    identity = {"fingerprint": index.fingerprint, "split": split, "num_videos": num_videos}
    agreed = {"config": config.to_dict(), "data": identity, "versions": current_versions()}
    constants, timeout = {**task.kind, **agreed}, config.run.timeout_seconds
    with (
        closing(create_loader(index, split, config, execution, world, folder)) as loader,
        joined(world, device=execution.device, timeout_seconds=timeout) as team,
        explained_memory(execution.device, task.memory_remedy),
        ExitStack() as claim,
    ):
        team.check_equal(agreed)
        team.from_main(precondition)
        # Before the folder is claimed: what cannot be computed here leaves no run there.
        training = create_training(task, model, loader, execution, team)
        if execution.bf16:
            backbone = model.get_submodule("backbone")
            num_clips = task.clips_per_forward(math.ceil(config.data.batch_size / world.size))
            require_bf16(backbone, (num_clips, *config.clip.clip_shape), execution.device)
        room = (config.run.keep_checkpoints + 1) * checkpoint_bytes(training, config.optimiser.name)
        team.from_main(lambda: folder.check_place(room))
        text = to_toml(config.to_dict(), sources)
        team.from_main(lambda: claim.enter_context(folder.claimed(text)))
        videos = index.sha256[index.split(split)]
        team.from_main(lambda: note_videos(folder.path, videos))
        restored = restore(training, folder, constants, team, accept_data_changes)
        team.from_main(lambda: folder.keep_index(index))
        length = team.from_main(lambda: follow_length(training, folder, config.schedule.epochs))
        start = Start(index, split, training, execution, world, restored, sources)
        for line in (*task.describe(start), *([] if length is None else [length])):
            announce(line)
        return _run_loop(task, training, folder, constants, team)


def choose_split(index: VideoIndex, wanted: str) -> str | None:
    """Return the split that `data.split` means for an index; None stands for every video."""
    if wanted == "auto":
        return "train" if "train" in index.splits else None
    if wanted not in index.splits and f"{wanted}/train" in index.splits:
        return f"{wanted}/train"
    return None if wanted == "all" else wanted


def check_batch_size(index: VideoIndex, split: str | None, batch_size: int) -> int:
    """Return the number of videos in a split, which must fill a batch.

    Raises:
        InputError: There are fewer.
    """
    num_videos = len(index.split(split))
    if batch_size > num_videos:
        raise InputError(
            f"data.batch_size = {batch_size}: larger than the data, which has {num_videos} videos; "
            f"use --batch-size {num_videos} or less"
        )
    return num_videos


def create_model(task: Task) -> nn.Module:
    """Return the network of a task as its seed draws it."""
    torch.manual_seed(task.config.run.seed)
    return task.create_model()


def create_loader(
    index: VideoIndex,
    split: str | None,
    config: TrainingConfig,
    execution: Execution,
    world: World,
    folder: RunFolder,
) -> ClipLoader:
    """Return the loader of a config; clips have the precision that the network computes in.

    Args:
        index: The videos.
        split: Name of the split, or None for every video.
        config: Clips, batch size, decoder, workers and seed.
        execution: Device and precision.
        world: The rank that the loader serves, and the number of ranks.
        folder: Its quarantine list records videos that fail.
    """
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
        augment=config.data.augment,
        dtype=torch.bfloat16 if execution.bf16 else torch.float32,
        num_workers=config.data.num_workers or None,
        local_world_size=sharers_of(world),
        prefetch=config.data.prefetch,
        quarantine_path=folder.quarantine_file,
    )


def _move_to_gpu(model: nn.Module, device: torch.device) -> None:
    model.to(device)
    nn.utils.convert_conv3d_weight_memory_format(model, torch.channels_last_3d)
    # Every batch has the same shape, so the search for the fastest convolution pays.
    torch.backends.cudnn.benchmark = True


def create_training(
    task: Task,
    model: nn.Module,
    loader: ClipLoader,
    execution: Execution,
    team: Team | None = None,
) -> Training:
    """Put model, objective and optimiser on the device, at step 0.

    Args:
        task: The kind of training.
        model: Its network; changed in place.
        loader: Its batches.
        execution: Device, precision and compilation.
        team: All processes; None: this one alone.
    """
    config, several = task.config, team is not None and team.world.size > 1
    if several and task.trains_backbone and config.run.batch_norm == "synchronised":
        synchronise_batch_norm(model)
    if execution.is_cuda:
        if task.channel_multiple is None:
            pad_for_gpu(model.get_submodule("backbone"))
        _move_to_gpu(model, execution.device)
    objective, compute = task.create_step(model, execution)
    # After MoCo has copied the model: keys need no gradient.
    if config.run.recompute_activations == "on" and task.trains_backbone:
        recompute_activations(model.get_submodule("backbone"))
    trained = nn.ModuleList([model, objective])
    base_rate = base_learning_rate(config.optimiser, batch_size=config.data.batch_size)
    return Training(
        model=model,
        objective=objective,
        optimiser=create_optimiser(trained, config.optimiser, fused=execution.is_cuda),
        loader=loader,
        compute=compute,
        rate=lambda step: learning_rate(
            step, config.schedule, base_rate=base_rate, steps_per_epoch=len(loader)
        ),
        total_steps=config.schedule.epochs * len(loader),
        max_gradient_norm=config.optimiser.max_gradient_norm,
        average=team.average if team is not None and several else None,
    )


def _run_loop(
    task: Task, training: Training, folder: RunFolder, constants: dict[str, Any], team: Team
) -> RunResult:
    """Train to the end, or until a signal asks for a stop; both leave a checkpoint."""
    config, watches = task.config.run, task.watches(len(training.loader), training.total_steps)
    first_step, total_steps = training.step, training.total_steps
    with ExitStack() as stack:
        stop = stack.enter_context(StopRequest(last=team.world.size > 1))
        log, line = None, None
        if team.is_main:
            project = config.wandb_project
            opened = RunLog(folder.path, start_step=first_step, wandb_project=project)
            log = stack.enter_context(closing(opened))
            stack.callback(folder.writer.join)  # it writes to the log, whatever ends the run
            chances = task.chances()
            shown = ProgressLine(
                total_steps=total_steps,
                start_step=first_step,
                chances=chances,
                verbose=config.verbose,
            )
            line = stack.enter_context(shown)
            log.event("start", step=first_step, total_steps=total_steps, chances=chances)
        keep_every = config.keep_every_epochs and config.keep_every_epochs * len(training.loader)
        keep = Kept(config.keep_checkpoints, every_steps=keep_every)
        keeper = RunKeeper(folder, log, line, constants, keep, team, watches)
        signals = AgreedStop(stop, team)
        with keeper.failure_logged(training):
            complete = train(
                training,
                keeper,
                log_every_steps=config.log_every_steps,
                checkpoint_every_steps=config.checkpoint_every_steps,
                keep_every_steps=keep_every,
                should_stop=signals,
            )
        signal_number = None if complete else signals.number
        decoded = DecodedBy.of(team.gather(training.loader.decoded_by.to_dict()))
        if log is not None:
            log.event("decoded", step=training.step, **decoded.to_dict())
            log.event("end", step=training.step, complete=complete, signal=signal_number)
    newest = team.from_main(lambda: find_checkpoint(folder.path))
    return RunResult(training.model, newest, training.step, total_steps, signal_number)
