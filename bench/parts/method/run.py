"""The contestants of bench.method: the objectives, an untrained network, and two baselines.

Each becomes a `Network`, and the same code measures all of them on the same clips.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.parts.results import Row
from fastdual.config import PretrainConfig, resolve
from fastdual.config.recipe import Resolved, read_recipe
from fastdual.distributed.world import World
from fastdual.evaluate.embed import EmbedOptions, embed_clips, feature_set
from fastdual.evaluate.features import FeatureSet
from fastdual.evaluate.held_out import embed_held_out, trains_segments
from fastdual.evaluate.pretext import measure
from fastdual.evaluate.probe import probe
from fastdual.evaluate.retrieval import retrieve
from fastdual.evaluate.variance import variance
from fastdual.kernels.objective import Objective
from fastdual.loaders.index import VideoIndex
from fastdual.model.dual import DualModel, create_model
from fastdual.model.encoder import VideoEncoder
from fastdual.run.folder import RunFolder
from fastdual.training.pretrain import Pretraining
from fastdual.training.start import run as train
from fastdual.weights.load import Network, load_network

UNTRAINED = "untrained"
_GRID = 12  # side of the pictures that are the features of a baseline


class MeanFrame(nn.Module):
    """The mean picture of a clip, 12 x 12: what can be told without seeing motion."""

    feature_dim = 3 * _GRID**2

    def forward(self, clips: Tensor) -> Tensor:
        """Return maps [N, F, 1, 1, 1] of clips [N, 3, T, H, W]."""
        return _as_maps(clips.mean(dim=2))


class FrameDifference(nn.Module):
    """The difference of neighbouring frames, averaged over the clip, 12 x 12."""

    feature_dim = 3 * _GRID**2

    def forward(self, clips: Tensor) -> Tensor:
        """Return maps [N, F, 1, 1, 1] of clips [N, 3, T, H, W]."""
        return _as_maps((clips[:, :, 1:] - clips[:, :, :-1]).abs().mean(dim=2))


def _as_maps(pictures: Tensor) -> Tensor:
    small = nn.functional.adaptive_avg_pool2d(pictures, _GRID).flatten(1)
    return small[:, :, None, None, None]


OBJECTIVES = tuple(
    objective.value
    for objective in (Objective.CLIP, Objective.CLIP_RANK, Objective.CLIP_RANK_COHERENCE)
)
BASELINES: dict[str, Callable[[], nn.Module]] = {
    "mean frame": MeanFrame,
    "frame difference": FrameDifference,
}
CONTESTANTS = (*BASELINES, UNTRAINED, *OBJECTIVES)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What every training run gets.

    Attributes:
        recipe: Name or file.
        steps: Steps of the optimiser; rounded to whole epochs, at least one.
        settings: Texts `key=value` that override the recipe.
    """

    recipe: str
    steps: int
    settings: tuple[str, ...] = ()

    def resolve(self, *, objective: str, seed: int, num_videos: int) -> Resolved[PretrainConfig]:
        """Return the config of one run; runs differ in nothing but objective and seed."""
        layer = read_recipe(self.recipe)
        batch_size = resolve([layer], self.settings).config.data.batch_size
        epochs = max(1, round(self.steps / (num_videos // batch_size)))
        own = {"schedule.epochs": epochs, "loss.objective": objective, "run.seed": seed}
        return resolve([layer, ("bench.method", own)], self.settings)


def make_network(
    contestant: str, seed: int, index: VideoIndex, budget: Budget, run: Path
) -> tuple[Network, int]:
    """Return a contestant ready to be measured, and the number of its training steps.

    Args:
        contestant: One of `CONTESTANTS`.
        seed: Seed of weights, order and clips.
        index: Videos with splits train and test.
        budget: Budget of the training.
        run: Folder of the run; a stopped run continues.
    """
    objective = contestant if contestant in OBJECTIVES else OBJECTIVES[-1]
    num_videos = len(index.split("train"))
    resolved = budget.resolve(objective=objective, seed=seed, num_videos=num_videos)
    config = resolved.config
    if contestant in BASELINES:
        encoder = VideoEncoder(BASELINES[contestant](), config, weights_sha256=contestant)
        return Network(encoder.eval(), config, contestant), 0
    if contestant == UNTRAINED:
        torch.manual_seed(seed)
        return Network(create_model(config).eval(), config, f"random weights, seed {seed}"), 0
    task, sources = Pretraining(resolved.config), resolved.sources
    result = train(task, index, RunFolder(run), sources, world=World(), announce=lambda _: None)
    if result.signal_number is not None:
        raise SystemExit(128 + result.signal_number)
    return load_network(run), result.step


def evaluate(network: Network, index: VideoIndex, *, clips_per_video: int) -> Row:
    """Return all measures of one network on the split test; None for those it does not have."""
    train, test, test_clips = _features(network, index, clips_per_video)
    found = retrieve(train, test)
    classified = probe(train, test).classification
    row: Row = {
        "r1": found.recall(1),
        "r5": found.recall(5),
        "probe_top1": float(classified.correct(1).mean()),
        "variance_ratio": variance(test_clips).ratio,
        "segment_variance_ratio": None,
        "rank_accuracy": None,
        "moved_rank_accuracy": None,
        "other_clip_r1": None,
    }
    if isinstance(network.model, DualModel):
        workers = network.config.data.num_workers
        options = EmbedOptions(num_workers=workers)
        held_out = embed_held_out(network, index, split="test", options=options)
        metrics = measure(held_out)
        row |= {
            "rank_accuracy": metrics.rank_accuracy,
            "moved_rank_accuracy": metrics.shuffled_rank_accuracy,
            "other_clip_r1": metrics.same_video_recall,
        }
        if trains_segments(network.config):
            row["segment_variance_ratio"] = variance(held_out.segments[:, 0]).ratio
    return row


def _features(
    network: Network, index: VideoIndex, clips_per_video: int
) -> tuple[FeatureSet, FeatureSet, Tensor]:
    """Return the features of both splits, and those of the single test clips [N, K, F]."""
    workers = network.config.data.num_workers
    options = EmbedOptions(clips_per_video=clips_per_video, num_workers=workers)
    sides = []
    for split in ("train", "test"):
        rows: dict[int, Tensor] = {}
        for videos, features in embed_clips(network, index, splits=[split], options=options):
            rows.update(zip(videos, features, strict=True))
        means = {video: clips.mean(dim=0) for video, clips in rows.items()}
        whole = feature_set(network, index, options.spec(network.config), means)
        sides.append(whole.part(split))
    return sides[0], sides[1], torch.stack(list(rows.values()))


def chances(index: VideoIndex, config: PretrainConfig) -> Row:
    """Return what guessing scores, under the names of `evaluate`."""
    labels = [index.labels[index.split(split)].tolist() for split in ("train", "test")]
    share = {label: labels[0].count(label) / len(labels[0]) for label in sorted(set(labels[0]))}
    commonest = max(share, key=lambda label: share[label])
    rank = 1 / (2 * config.clip.num_segments - 1)
    return {
        "r1": _mean(share.get(label, 0.0) for label in labels[1]),
        "probe_top1": labels[1].count(commonest) / len(labels[1]),
        "rank_accuracy": rank,
        "moved_rank_accuracy": rank,
        "other_clip_r1": 1 / len(labels[1]),
    }


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)
