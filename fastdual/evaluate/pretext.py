"""How well the pretext task itself is solved, on videos that were not trained on.

Shapes: N videos, V = 4 views, S segments, D embedding size, F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastdual.config import PretrainConfig
from fastdual.errors import printable
from fastdual.evaluate.classify import interval
from fastdual.evaluate.embed import left_out
from fastdual.evaluate.features import plain_left_out
from fastdual.evaluate.held_out import HeldOutEmbeddings
from fastdual.evaluate.retrieval import first_match_ranks
from fastdual.functional import shuffle_rank_loss_with_metrics
from fastdual.loaders.index import VideoIndex

_TITLES = {
    "rank_accuracy": "rank accuracy",
    "shuffled_rank_accuracy": "rank accuracy, segments moved",
    "clip_top1": "other view of the clip first",
    "same_video_recall": "other clip of the video first",
}


@dataclass(frozen=True)
class HeldOutMetrics:
    """Shares in [0, 1] over all held-out videos.

    Attributes:
        rank_accuracy: Segments whose match outranks all others of the two clips; None where S = 1.
        shuffled_rank_accuracy: The same over the videos whose segments did change places. A network
            that knows only a segment's place in its clip, and nothing of what is seen there, gets
            every identity permutation right (1 in S!) and none of these.
        rank_chance: What random answers give, 1 / (2 S - 1).
        clip_top1: Clip embeddings to which, of all others of the split, the other view of the same
            video is nearest.
        same_video_recall: Videos whose other clip is the nearest of all clips of the split, by
            pooled backbone features, centred, cosine.
        num_videos: N.
    """

    rank_accuracy: float | None
    shuffled_rank_accuracy: float | None
    rank_chance: float
    clip_top1: float
    same_video_recall: float
    num_videos: int


def measure(held_out: HeldOutEmbeddings) -> HeldOutMetrics:
    """Return the metrics of held-out embeddings."""
    means = {name: float(right.mean()) for name, (_, right) in answers(held_out).items()}
    return HeldOutMetrics(
        rank_accuracy=means.get("rank_accuracy"),
        shuffled_rank_accuracy=means.get("shuffled_rank_accuracy"),
        rank_chance=1 / (2 * held_out.segments.shape[2] - 1),
        clip_top1=means["clip_top1"],
        same_video_recall=means["same_video_recall"],
        num_videos=len(held_out.permutation),
    )


def answers(held_out: HeldOutEmbeddings) -> dict[str, tuple[Tensor, Tensor]]:
    """Return how much of each video is right, by metric of `HeldOutMetrics`.

    Returns:
        The rows [M] of the videos that the metric applies to, and their shares [M]; no entry where
        it applies to no video.
    """
    every = torch.arange(len(held_out.permutation))
    found = {
        "clip_top1": (every, _two_view_top1(held_out.clips)),
        "same_video_recall": (every, _same_video_recall(held_out.features)),
    }
    if held_out.permutation.shape[1] > 1:
        right, moved = _rank_accuracy(held_out.segments, held_out.permutation), held_out.moved
        found["rank_accuracy"] = (every, right)
        if moved.any():
            found["shuffled_rank_accuracy"] = (every[moved], right[moved])
    return found


def intervals(held_out: HeldOutEmbeddings, groups: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return each metric with its bootstrap interval.

    Args:
        held_out: Embeddings of videos of an index.
        groups: What each video of the index was cut from, "" where unknown.
    """
    found = {}
    for name, (rows, right) in answers(held_out).items():
        videos = held_out.video_ids[rows].tolist()
        found[name] = interval(right.numpy(), [groups[video] for video in videos])
    return found


def pretext_entry(
    held_out: HeldOutEmbeddings, config: PretrainConfig, index: VideoIndex, split: str
) -> dict[str, Any]:
    """Return the numbers of a split, and what was left out of it, as a result holds them.

    Args:
        held_out: Embeddings of the videos of the split.
        config: Of the training; its temperatures define the losses.
        index: The videos.
        split: Name of the split.
    """
    videos = held_out.video_ids.tolist()
    return {
        "train": config.data.split or "train",
        "test": split,
        "num_test": len(videos),
        "metrics": intervals(held_out, index.groups),
        "rank_chance": measure(held_out).rank_chance,
        "left_out": {"test": plain_left_out(left_out(index, index.split(split), videos))},
        "overlaps": [],
    }


def pretext_table(metrics: HeldOutMetrics, split: str) -> str:
    """Return the metrics of a split as lines for people."""
    chances = dict.fromkeys(("rank_accuracy", "shuffled_rank_accuracy"), metrics.rank_chance)
    lines = [f"{metrics.num_videos} videos of the split {split}, in %"]
    lines.append(f"{'':<32}{'chance':>9}{'found':>9}")
    for name, title in _TITLES.items():
        chance = chances.get(name, 1 / metrics.num_videos)
        found = getattr(metrics, name)
        shown = "-" if found is None else f"{100 * found:.1f}"
        lines.append(f"{title:<32}{100 * chance:>9.1f}{shown:>9}")
    return "\n".join(map(printable, lines))


def _rank_accuracy(segments: Tensor, permutation: Tensor) -> Tensor:
    """Return the share of right segments per video [N], in views 0 and 2 against the shuffled one.

    Args:
        segments: [N, V, S, D].
        permutation: [N, S].
    """
    shares = [
        shuffle_rank_loss_with_metrics(of[[0, 2]], of[[3, 3]], order.expand(2, -1)).accuracy
        for of, order in zip(segments, permutation, strict=True)
    ]
    return torch.stack(shares).double()


def _two_view_top1(clips: Tensor) -> Tensor:
    """Return the share [N] of the views [N, 2, D] that are nearest to the other of their video."""
    rows = clips.flatten(0, 1)
    similarity = rows @ rows.T
    similarity.fill_diagonal_(-torch.inf)
    numbers = torch.arange(len(rows))
    match = similarity[numbers, numbers ^ 1]
    # A tie is not a win: a network that maps all clips to one point knows none of them.
    wins = (similarity >= match[:, None]).sum(dim=1) == 1
    return wins.double().view(-1, 2).mean(dim=1)


def _same_video_recall(features: Tensor) -> Tensor:
    """Return R@1 [N] of view 0 of each video among all views 1; features are [N, 2, F]."""
    numbers = torch.arange(len(features))
    ranks = first_match_ranks(features[:, 1], numbers, features[:, 0], numbers)
    return (ranks == 1).double()
