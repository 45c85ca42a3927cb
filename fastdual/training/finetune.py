"""Fine-tuning, or training a linear classifier on a frozen backbone, then the 10-clip test.

The loop, checkpoints, resume and processes are those of pretraining; only the step differs.
"""

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from fastdual.config.finetune import FinetuneConfig
from fastdual.config.recipe import Resolved
from fastdual.distributed.team import Team, World, joined
from fastdual.errors import InputError
from fastdual.evaluate.classify import Classification
from fastdual.evaluate.embed import Progress
from fastdual.evaluate.features import LeftOut
from fastdual.evaluate.hygiene import index_overlaps, refuse_overlaps, write_overlaps
from fastdual.loaders.index import VideoIndex
from fastdual.loaders.loader import ClipLoader
from fastdual.model.batch_norm import synchronise_batch_norm
from fastdual.model.encoder import VideoEncoder
from fastdual.model.frozen import check_frozen, snapshot
from fastdual.model.recompute import recompute_activations
from fastdual.run.folder import RunFolder
from fastdual.run.log import require_wandb
from fastdual.training.classifier import Classifier, ClassifyStep, classify
from fastdual.training.execution import Execution, choose_execution, explained_memory
from fastdual.training.loop import Training
from fastdual.training.pretrain import (
    PretrainResult,
    choose_split,
    create_loader,
    current_versions,
    restore,
    run_loop,
)
from fastdual.training.schedule import base_learning_rate, create_optimiser, learning_rate


@dataclass(frozen=True)
class FinetuneResult:
    """How a run ended; the test of a complete one, on the process that writes the run folder."""

    training: PretrainResult
    classification: Classification | None
    left_out: tuple[LeftOut, ...]
    overlaps: list[dict[str, Any]]
    num_train: int


def finetune(
    index: VideoIndex,
    encoder: VideoEncoder,
    folder: RunFolder,
    resolved: Resolved[FinetuneConfig],
    *,
    world: World,
    announce: Callable[[str], None],
    allow_overlap: bool = False,
    overlaps_file: Path | None = None,
    progress: Progress | None = None,
) -> FinetuneResult:
    """Train on the training split, from the newest checkpoint of the folder, then test.

    Args:
        index: labelled videos with both splits.
        encoder: where the backbone starts; it is copied into the classifier's place, not kept.
        folder: where everything is kept.
        resolved: the config, with the origin of each value.
        world: which process of how many this is.
        announce: told, line by line, what is going to be done.
        allow_overlap: measure although training and test videos overlap.
        overlaps_file: every overlap is written here.
        progress: told of the test.

    Raises:
        InputError: before anything is written, if the parts do not fit each other.
        FailureError: the disk is full, too many videos fail, the loss is not finite, or a frozen
            weight or statistic moved.
    """
    config = resolved.config
    require_wandb(config.run.wandb_project)
    execution = choose_execution(config.run, world)
    split = choose_split(index, config.data.split)
    check_labels(index, split, config)
    frozen = snapshot(encoder.backbone)
    torch.manual_seed(config.run.seed)
    num_classes = len(index.class_names)
    model = Classifier(encoder.backbone, num_classes=num_classes, freeze=config.model.freeze)
    model.train()
    num_videos = len(index.split(split))
    identity = {"fingerprint": index.fingerprint, "split": split, "num_videos": num_videos}
    agreed = {"config": config.to_dict(), "data": identity, "versions": current_versions()}
    constants = {"task": "finetune", **agreed}
    loading = cast(Any, replace(config, clip=replace(config.clip, mode="finetune")))
    with (
        closing(create_loader(index, split, loading, execution, world, folder)) as loader,
        joined(world, device=execution.device, timeout_seconds=config.run.timeout_seconds) as team,
        explained_memory(execution.device, "use a smaller --batch-size"),
        ExitStack() as claim,
    ):
        team.check_equal(agreed)
        overlaps = team.from_main(
            lambda: _settle_overlaps(index, config, split, allow_overlap, overlaps_file)
        )
        team.from_main(lambda: claim.enter_context(folder.claimed(cast(Any, resolved))))
        training = create_training(model, loader, config, execution, team)
        restored = restore(training, folder, constants, team)
        for line in _describe(index, training, config, execution, restored is not None):
            announce(line)
        result = run_loop(training, folder, config.run, constants, team)
    if config.model.freeze:
        check_frozen(model.backbone, frozen)
    classification: Classification | None = None
    missing: tuple[LeftOut, ...] = ()
    if result.signal_number is None and world.is_main:
        classification, missing = classify(model, index, config, execution, progress=progress)
    return FinetuneResult(result, classification, missing, overlaps, num_videos)


def _settle_overlaps(
    index: VideoIndex,
    config: FinetuneConfig,
    split: str | None,
    allowed: bool,
    listing: Path | None,
) -> list[dict[str, Any]]:
    found = index_overlaps(
        index,
        split,
        config.test.split,
        decode=config.data.decode,
        num_workers=config.data.num_workers,
    )
    if listing is not None:
        write_overlaps(listing, found)
    return refuse_overlaps(found, allowed=allowed, listing=listing)


def check_labels(index: VideoIndex, split: str | None, config: FinetuneConfig) -> None:
    """Make sure that every video of both splits has a class, and every class a training video.

    Raises:
        InputError: names what is missing.
    """
    train, test = index.labels[index.split(split)], index.labels[index.split(config.test.split)]
    for name, labels in ((split or "all", train), (config.test.split, test)):
        unlabelled = int((labels < 0).sum())
        if unlabelled:
            raise InputError(
                f"{unlabelled} of the {len(labels)} videos of the split {name!r} have no label; "
                "index them from class folders or a CSV with a label column"
            )
    absent = np.setdiff1d(np.arange(len(index.class_names)), train)
    if len(absent):
        names = ", ".join(index.class_names[number] for number in absent[:5])
        raise InputError(
            f"{len(absent)} of {len(index.class_names)} classes have no training video, first "
            f"{names}; choose splits that share their classes, or leave them out of the index"
        )
    if config.data.batch_size > len(train):
        raise InputError(
            f"data.batch_size = {config.data.batch_size}: larger than the training split, which "
            f"has {len(train)} videos; use --batch-size {len(train)} or less"
        )


def create_training(
    model: Classifier, loader: ClipLoader, config: FinetuneConfig, execution: Execution, team: Team
) -> Training:
    """Put model and optimiser on the device, at step 0."""
    several = team.world.size > 1
    if several and not config.model.freeze:
        synchronise_batch_norm(model)
    if config.run.recompute_activations == "on" and not config.model.freeze:
        recompute_activations(model.backbone)
    model.to(execution.device)
    if execution.is_cuda:
        nn.utils.convert_conv3d_weight_memory_format(model, torch.channels_last_3d)
        torch.backends.cudnn.benchmark = True
    return Training(
        model=model,
        objective=nn.Module(),
        optimiser=create_optimiser(
            model, config.optimiser, fused=execution.is_cuda, several=several
        ),
        loader=loader,
        compute=ClassifyStep(model, execution),
        rate=lambda step: learning_rate(
            step,
            config.schedule,
            base_rate=base_learning_rate(config.optimiser, batch_size=config.data.batch_size),
            steps_per_epoch=len(loader),
        ),
        total_steps=config.schedule.epochs * len(loader),
        max_gradient_norm=config.optimiser.max_gradient_norm,
        average=team.average if several else None,
    )


def _describe(
    index: VideoIndex,
    training: Training,
    config: FinetuneConfig,
    execution: Execution,
    restored: bool,
) -> list[str]:
    clip, loader = config.clip, training.loader
    trained = "classifier alone, backbone frozen" if config.model.freeze else "all weights"
    return [
        f"data      {len(index.class_names)} classes; {len(loader)} batches of "
        f"{config.data.batch_size} per epoch; tested on {config.test.split!r} by "
        f"{clip.clips_per_video} clips a video",
        f"decode    {loader.decode_choice.decoder}: {loader.decode_choice.reason}",
        f"clips     {clip.frames_per_clip} frames at stride {clip.frame_stride}, "
        f"{clip.crop_size}x{clip.crop_size}",
        f"model     {config.model.backbone} from {config.model.weights[:24]}; trained: {trained}",
        f"compute   {execution.describe()}",
        f"run       {'goes on' if restored else 'starts'} at step {training.step} of "
        f"{training.total_steps} ({config.schedule.epochs} epochs)",
    ]
