"""Measuring a cell: pretrain, score the features, fine-tune with few and with all labels."""

import copy
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.parts.method import contestants as c
from bench.parts.method.cells import Cell
from bench.parts.method.data import fold_of, split_name
from bench.parts.method.journal import Row
from bench.parts.results import describe_machine
from fastdual.config import FinetuneConfig, PretrainConfig
from fastdual.config.finetune import FIXED_KEYS as FINETUNE_FIXED_KEYS
from fastdual.config.recipe import build
from fastdual.config.sections import FIXED_KEYS
from fastdual.distributed.world import World
from fastdual.evaluate.embed import EmbedOptions, embed_clips, feature_set
from fastdual.evaluate.features import FeatureSet
from fastdual.evaluate.held_out import embed_held_out, trains_segments
from fastdual.evaluate.pretext import answers
from fastdual.evaluate.probe import probe
from fastdual.evaluate.retrieval import retrieve
from fastdual.evaluate.ten_clips import classify_by_clips
from fastdual.evaluate.variance import variance
from fastdual.loaders.index import VideoIndex
from fastdual.model.dual import DualModel, create_model
from fastdual.model.encoder import VideoEncoder
from fastdual.run.folder import RunFolder
from fastdual.training.finetune import Finetuning
from fastdual.training.pretrain import Pretraining
from fastdual.training.start import run as train
from fastdual.weights.load import Network, load_network

# By test video: right or wrong, a share of right answers, or None where it does not apply.
Answers = dict[str, list[float | None]]


def measure(cell: Cell, index: VideoIndex, work: Path, *, workers: int = 1) -> Row:
    """Return the row of a cell; a cell that was stopped goes on from its last checkpoint.

    Args:
        cell: What is measured.
        index: The videos of its set.
        work: Folder for its runs, which are deleted at the end.
        workers: Decoding processes.
    """
    start = time.perf_counter()
    torch.set_num_threads(1)
    fold = fold_of(index, cell.data, cell.fold, search=cell.search)
    folder = work / "cells" / cell.key
    network = make_network(cell, fold, folder, workers)
    seconds = {"pretrain": time.perf_counter() - start}
    found, values = ({}, {}) if cell.search else score(network, fold, workers)
    if cell.contestant not in c.BASELINES:
        for percent, steps in cell.finetune_steps.items():
            backbone = copy.deepcopy(network.model.get_submodule("backbone"))
            run = folder / f"finetune-{percent}"
            options = _length(fold, split_name(percent), steps, cell.finetuning)
            options["data.num_workers"] = workers
            found[f"finetuned_{percent}"] = finetune(cell, backbone, fold, run, options)
    seconds["all"] = time.perf_counter() - start
    shutil.rmtree(folder, ignore_errors=True)
    return {**describe(cell, fold), **_row(found, values), "seconds": _rounded(seconds)}


def _length(index: VideoIndex, split: str, steps: int, settings: c.Settings) -> dict[str, Any]:
    """Return the settings that train on a split for about so many steps, in whole epochs.

    A split that does not fill a batch is a batch.
    """
    videos, batch = len(index.split(split)), settings["data.batch_size"]
    batch = min(batch, videos)
    epochs = max(2, round(steps / (videos // batch)))  # more than the warm-up
    return {"data.split": split, "data.batch_size": batch, "schedule.epochs": epochs}


def describe(cell: Cell, index: VideoIndex) -> Row:
    """Return what a row says of its cell, the groups of its test videos, and the machine."""
    groups = [index.groups[video] for video in index.split("test")]
    names = sorted(set(groups))
    machine = describe_machine(torch.device("cpu"))
    return {
        "key": cell.key,
        "data": cell.data.name,
        "fold": cell.fold,
        "seed": cell.seed,
        "contestant": cell.contestant,
        "changed": dict(cell.changed),
        "search": cell.search,
        "groups": names,
        "group_of": [names.index(group) for group in groups],
        "classes": len(index.class_names),
        "train_videos": len(index.split("train")),
        "machine": {name: machine[name] for name in ("device", "torch", "commit", "date")},
    }


def _row(found: Answers, values: dict[str, float | None]) -> Row:
    """Return the answers by test video, and the mean of each, and values of the fold as a whole."""
    means = {
        name: float(np.mean([answer for answer in given if answer is not None]))
        for name, given in found.items()
    }
    return {"answers": found, "means": _rounded({**means, **values})}


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {name: None if value is None else round(value, 4) for name, value in values.items()}


def make_network(cell: Cell, index: VideoIndex, folder: Path, workers: int) -> Network:
    """Return the network of a cell before fine-tuning: pretrained, random, or a baseline."""
    own = _length(index, "train", c.STEPS, cell.pretraining)
    layers = [("bench.method", {**cell.pretraining, **own, "data.num_workers": workers})]
    config: PretrainConfig = build(PretrainConfig, layers, fixed_keys=FIXED_KEYS).config
    if cell.contestant in c.BASELINES:
        backbone = c.BASELINES[cell.contestant]()
        encoder = VideoEncoder(backbone, config, weights_sha256=cell.contestant)
        return Network(encoder.eval(), config, cell.contestant)
    if not cell.is_pretrained:
        torch.manual_seed(cell.seed)
        return Network(create_model(config).eval(), config, f"random weights, seed {cell.seed}")
    run = folder / "pretrain"
    _train(Pretraining(config), index, run)
    return load_network(run)


def _train(task: Any, index: VideoIndex, run: Path) -> nn.Module:
    result = train(task, index, RunFolder(run), {}, world=World(), announce=lambda _: None)
    if result.signal_number is not None:
        raise SystemExit(128 + result.signal_number)
    return result.model


def finetune(
    cell: Cell, backbone: nn.Module, index: VideoIndex, run: Path, options: c.Settings
) -> list[float | None]:
    """Return which test videos a fine-tuned backbone classifies right, by the 10-clip test.

    Args:
        cell: Says the settings.
        backbone: Where it starts; it is changed.
        index: With the splits of the fold.
        run: Folder of the run.
        options: Settings beside those of the cell: split, epochs, workers.
    """
    layers = [("bench.method", {**cell.finetuning, **options})]
    config = build(FinetuneConfig, layers, fixed_keys=FINETUNE_FIXED_KEYS).config
    task = Finetuning(config, backbone, num_classes=len(index.class_names))
    tested, missing = classify_by_clips(_train(task, index, run), index, config)
    assert not missing, missing
    return [float(right) for right in tested.correct(1)]


def score(
    network: Network, index: VideoIndex, workers: int
) -> tuple[Answers, dict[str, float | None]]:
    """Return what the features of a network are worth, by test video and for the fold."""
    train_set, test_set, test_clips = _features(network, index, workers)
    ranks = retrieve(train_set, test_set).ranks
    found: Answers = {f"r{k}": [float(rank <= k) for rank in ranks] for k in (1, 5, 10)}
    right = probe(train_set, test_set).classification.correct(1)
    found["probe"] = [float(hit) for hit in right]
    values: dict[str, float | None] = {"variance_ratio": variance(test_clips).ratio}
    if isinstance(network.model, DualModel) and trains_segments(network.config):
        options = EmbedOptions(num_workers=workers)
        held_out = embed_held_out(network, index, split="test", options=options)
        rows, shares = answers(held_out)["shuffled_rank_accuracy"]
        moved: list[float | None] = [None] * len(index.split("test"))
        for row, share in zip(rows.tolist(), shares.tolist(), strict=True):
            moved[row] = share
        found["moved_rank"] = moved
    return found, values


def _features(
    network: Network, index: VideoIndex, workers: int
) -> tuple[FeatureSet, FeatureSet, Tensor]:
    """Return the features of both splits, and those of the single test clips [N, K, F]."""
    options = EmbedOptions(clips_per_video=10, num_workers=workers)
    sides: list[FeatureSet] = []
    clips: Sequence[Tensor] = ()
    for split in ("train", "test"):
        rows: dict[int, Tensor] = {}
        for videos, features in embed_clips(network, index, splits=[split], options=options):
            rows.update(zip(videos, features, strict=True))
        means = {video: rows[video].mean(dim=0) for video in sorted(rows)}
        whole = feature_set(network, index, options.spec(network.config), means)
        sides.append(whole.part(split))
        clips = [rows[video] for video in sorted(rows)]
    return sides[0], sides[1], torch.stack([*clips])
