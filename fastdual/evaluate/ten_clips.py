"""Fine-tuning and its test: the mean softmax of several clips (the paper's ten) of each test video.

Shapes: B videos of a batch, K clips per video, C classes.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastdual.config import FinetuneConfig
from fastdual.config.recipe import Resolved
from fastdual.distributed.world import World
from fastdual.evaluate.classify import Classification
from fastdual.evaluate.embed import Progress, left_out
from fastdual.evaluate.features import LeftOut
from fastdual.evaluate.hygiene import index_overlaps, settle_overlaps
from fastdual.evaluate.passes import one_pass
from fastdual.loaders.index import VideoIndex
from fastdual.model.encoder import CLIPS_AT_ONCE, VideoEncoder
from fastdual.model.frozen import kept_frozen
from fastdual.run.folder import RunFolder
from fastdual.training.finetune import Finetuning
from fastdual.training.start import RunResult, choose_split, run

_VIDEOS_AT_ONCE = 8


@dataclass(frozen=True)
class FinetuneResult:
    """How a run ended, and the test of a complete one, on the process that writes the run folder.

    Attributes:
        training: How the run ended.
        classification: Of the test videos; None: not tested.
        left_out: Test videos that could not be tested.
        overlaps: Between the two splits, as plain values; rank 0 alone has them.
    """

    training: RunResult
    classification: Classification | None
    left_out: tuple[LeftOut, ...]
    overlaps: list[dict[str, Any]]


def finetune_and_test(
    index: VideoIndex,
    encoder: VideoEncoder,
    folder: RunFolder,
    resolved: Resolved[FinetuneConfig],
    *,
    world: World,
    announce: Callable[[str], None],
    accept_data_changes: bool = False,
    allow_overlap: bool = False,
    overlaps_file: Path | None = None,
    progress: Progress | None = None,
) -> FinetuneResult:
    """Refuse splits that overlap, fine-tune, then test.

    Args:
        index: Labelled videos with both splits.
        encoder: The network to start from; changed in place.
        folder: Where everything is kept.
        resolved: The config, with the origin of each value.
        world: Which process of how many this is.
        announce: Called with each line of what is going to be done.
        accept_data_changes: Go on from a checkpoint of other data, in a new order.
        allow_overlap: Measure although training and test videos overlap.
        overlaps_file: Every overlap is written here.
        progress: Called with the progress of the test.

    Raises:
        InputError: Before anything is written, if the parts do not fit each other.
        FailureError: The disk is full, too many videos fail, the loss is not finite, or a frozen
            weight or statistic moved.
    """
    config, overlaps = resolved.config, list[dict[str, Any]]()

    def settle() -> None:
        overlaps.extend(_settle_overlaps(index, config, allow_overlap, overlaps_file))

    task = Finetuning(config, encoder.backbone, num_classes=len(index.class_names))
    with kept_frozen(encoder.backbone) if config.model.freeze else nullcontext():
        training = run(
            task,
            index,
            folder,
            resolved.sources,
            world=world,
            announce=announce,
            precondition=settle,
            accept_data_changes=accept_data_changes,
        )
    if training.signal_number is not None or not world.is_main:
        return FinetuneResult(training, None, (), overlaps)
    tested, missing = classify_by_clips(training.model, index, config, progress=progress)
    return FinetuneResult(training, tested, missing, overlaps)


def _settle_overlaps(
    index: VideoIndex, config: FinetuneConfig, allowed: bool, listing: Path | None
) -> list[dict[str, Any]]:
    data = config.data
    found = index_overlaps(
        index,
        choose_split(index, data.split),
        config.test.split,
        decode=data.decode,
        num_workers=data.num_workers,
    )
    return settle_overlaps([found], allowed=allowed, listing=listing)[0]


def classify_by_clips(
    model: nn.Module, index: VideoIndex, config: FinetuneConfig, *, progress: Progress | None = None
) -> tuple[Classification, tuple[LeftOut, ...]]:
    """Score each test video by the mean softmax over its clips; name those that are left out.

    Args:
        model: Maps clips [N, 3, T, H, W] to logits [N, C].
        index: Labelled videos.
        config: Test split, clips and decoder.
        progress: Called after each batch.

    Raises:
        FailureError: Too many videos cannot be decoded.
    """
    wanted = index.split(config.test.split)
    loader = one_pass(
        index,
        replace(config.clip, mode="evaluate"),
        wanted,
        batch_size=_VIDEOS_AT_ONCE,
        device=str(next(model.parameters()).device),
        decode=config.data.decode,
        num_workers=config.data.num_workers,
    )
    rows: dict[int, Tensor] = {}
    model.eval()
    with loader:
        for batch in loader:
            means = _chances(model, batch.clips).mean(dim=1).cpu()  # [B, C]
            rows.update(zip(batch.video_ids.tolist(), means, strict=True))
            if progress is not None:
                progress(len(rows), len(wanted), 0)
    videos = sorted(rows)
    tested = Classification(
        scores=torch.stack([rows[video] for video in videos]).numpy(),
        labels=index.labels[videos],
        groups=tuple(index.groups[video] for video in videos),
        class_names=index.class_names,
    )
    return tested, left_out(index, wanted, rows)


@torch.inference_mode()
def _chances(model: nn.Module, clips: Tensor) -> Tensor:
    """Return the softmax [B, K, C] of clips [B, K, 3, T, H, W]."""
    parts = torch.split(clips.flatten(0, 1), CLIPS_AT_ONCE)
    chances = torch.cat([model(part).double().softmax(dim=1) for part in parts])
    return chances.view(*clips.shape[:2], -1)
