"""How well the pretext task itself is solved, on videos that were not trained on.

Shapes: B videos of a batch, N videos, V = 4 views, S segments, D embedding size.
"""

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fastdual.config import PretrainConfig
from fastdual.errors import InputError
from fastdual.evaluate.classify import interval
from fastdual.evaluate.embed import CLIPS_AT_ONCE, EmbedOptions
from fastdual.evaluate.retrieval import first_match_ranks
from fastdual.functional import shuffle_rank_loss_with_metrics
from fastdual.loaders.batch.decoder import Requested
from fastdual.loaders.index import VideoIndex
from fastdual.loaders.loader import ClipBatch, ClipLoader
from fastdual.model.dual import DualModel
from fastdual.model.encoder import VideoEncoder
from fastdual.model.frozen import check_frozen, snapshot
from fastdual.weights.load import Network

HELD_OUT_SEED = 20_210_704  # the clips of every held-out measurement, whatever the run's own seed


@dataclass(frozen=True)
class HeldOutMetrics:
    """Shares in [0, 1] over all held-out videos.

    Attributes:
        rank_accuracy: segments whose match outranks all others of the two clips; None where S = 1.
        shuffled_rank_accuracy: the same over the videos whose segments did change places. A network
            that knows only a segment's place in its clip, and nothing of what is seen there, gets
            every identity permutation right (1 in S!) and none of these.
        rank_chance: what guessing gives, 1 / (2 S - 1).
        clip_top1: clip embeddings to which, of all others of the split, the other view of the same
            video is nearest.
        same_video_recall: videos whose other clip is the nearest of all clips of the split, by
            pooled backbone features, centred, cosine.
        num_videos: N.
    """

    rank_accuracy: float | None
    shuffled_rank_accuracy: float | None
    rank_chance: float
    clip_top1: float
    same_video_recall: float
    num_videos: int


def held_out_loader(
    index: VideoIndex,
    config: PretrainConfig,
    *,
    split: str | None,
    device: str = "cpu",
    decode: Requested = "auto",
    num_workers: int | None = None,
) -> ClipLoader:
    """The pretraining views of a held-out split, drawn with a seed that no run changes."""
    return ClipLoader(
        index,
        config.clip,
        batch_size=min(config.data.batch_size, len(index.split(split))),
        split=split,
        seed=HELD_OUT_SEED,
        device=device,
        decode=decode,
        num_workers=num_workers,
        shuffle=False,
        drop_last=False,
    )


@dataclass(frozen=True)
class HeldOutEmbeddings:
    """What a network makes of the four views of N videos, on the CPU.

    Attributes:
        clips: [N, 2, D] clip embeddings of views 0 and 1.
        features: [N, 2, F] pooled backbone features of views 0 and 1.
        segments: [N, 4, S, D'] segment embeddings; those of view 3 as the network saw them.
        permutation: [N, S]; segment i of view 3 is segment permutation[i] of view 2.
        video_ids: [N] numbers of the videos in their index.
    """

    clips: Tensor
    features: Tensor
    segments: Tensor
    permutation: Tensor
    video_ids: Tensor

    @property
    def moved(self) -> Tensor:
        """[N] whether the segments of view 3 did change places."""
        return (self.permutation != torch.arange(self.permutation.shape[1])).any(dim=1)

    def moved_similarity(self) -> NDArray[np.float64]:
        """Return the cosines of segment i of view 0 and segment j of view 3 put back into order.

        Returns:
            [M, S, S], of the M videos whose segments did change places: the others are no test.
        """
        order = self.permutation.argsort(dim=1)[:, :, None].expand_as(self.segments[:, 3])
        unshuffled = self.segments[:, 3].gather(1, order)
        similarity = self.segments[:, 0] @ unshuffled.transpose(1, 2)
        return similarity[self.moved].double().numpy().astype(np.float64)


@torch.inference_mode()
def held_out_embeddings(
    model: DualModel | VideoEncoder, loader: Iterable[ClipBatch]
) -> HeldOutEmbeddings:
    """Embed one pass of a loader of pretraining views; the model is in evaluation mode meanwhile.

    Args:
        model: on the loader's device.
        loader: `held_out_loader`, or any other that yields the four views.

    Raises:
        InputError: a backbone without heads.
        FailureError: a weight or statistic moved.
    """
    if not isinstance(model, DualModel):
        raise InputError("an exported or fine-tuned backbone has no heads: name its run instead")
    was_training = model.training
    model.eval()
    before = snapshot(model)
    parts = []
    seen: set[int] = set()
    for batch in loader:
        fresh = _unseen_rows(batch.video_ids, seen)
        if not len(fresh):
            continue
        assert batch.permutation is not None, "the loader must yield the pretraining views"
        clips, segments, pooled = _embed_views(model, batch.clips[fresh])
        ids = batch.video_ids[fresh]
        part = (clips[:, :2], pooled[:, :2], segments, batch.permutation[fresh], ids)
        parts.append([tensor.cpu() for tensor in part])
    check_frozen(model, before)
    model.train(was_training)
    return HeldOutEmbeddings(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def embed_held_out(
    network: Network, index: VideoIndex, *, split: str | None, options: EmbedOptions
) -> HeldOutEmbeddings:
    """Embed the pretraining views of a held-out split where the network is.

    Args:
        network: With heads.
        index: The videos.
        split: Name of a split; None: every video.
        options: How the videos are decoded.

    Raises:
        InputError: No such split, or a network without heads.
        FailureError: Too many videos cannot be decoded, or a weight or statistic moved.
    """
    loader = held_out_loader(
        index,
        network.config,
        split=split,
        device=str(network.device),
        decode=options.decode,
        num_workers=options.num_workers,
    )
    with closing(loader):
        return held_out_embeddings(network.model, loader)


def trains_segments(config: PretrainConfig) -> bool:
    """Whether the objective reaches the segments' head, which keeps random weights otherwise."""
    return config.loss.objective != "clip"


def held_out_metrics(
    model: DualModel | VideoEncoder, loader: Iterable[ClipBatch]
) -> HeldOutMetrics:
    """Measure one pass of a loader of pretraining views; arguments as `held_out_embeddings`."""
    return measure(held_out_embeddings(model, loader))


def measure(held_out: HeldOutEmbeddings) -> HeldOutMetrics:
    """The metrics of embeddings that are there already."""
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
    """By metric: the rows [M] of the videos that it is asked of, and how much of each is right [M].

    A metric of `HeldOutMetrics` that is asked of no video is not there.
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
    """Each metric with its bootstrap interval; groups: of all videos of the index."""
    found = {}
    for name, (rows, right) in answers(held_out).items():
        asked = held_out.video_ids[rows].tolist()
        found[name] = interval(right.numpy(), [groups[video] for video in asked])
    return found


def _unseen_rows(video_ids: Tensor, seen: set[int]) -> Tensor:
    """Rows of videos not shown before: a substitute would be a second positive of its video."""
    rows = []
    for row, video in enumerate(video_ids.tolist()):
        if video not in seen:
            seen.add(video)
            rows.append(row)
    return torch.tensor(rows, dtype=torch.int64, device=video_ids.device)


def _embed_views(model: DualModel, views: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Clip embeddings [B, V, D], segment embeddings [B, V, S, D'] and pooled features [B, V, F]."""
    pooled: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], maps: Tensor) -> None:
        pooled.append(maps.float().mean(dim=(2, 3, 4)))

    hook = model.backbone.register_forward_hook(keep)
    try:
        parts = [model(part) for part in torch.split(views.flatten(0, 1), CLIPS_AT_ONCE)]
    finally:
        hook.remove()
    clip, segments = (torch.cat(part) for part in zip(*parts, strict=True))
    leading = views.shape[:2]
    return (
        clip.view(*leading, -1),
        segments.view(*leading, model.num_segments, -1),
        torch.cat(pooled).view(*leading, -1),
    )


def _rank_accuracy(segments: Tensor, permutation: Tensor) -> Tensor:
    """Share of right segments of each video [N], in views 0 and 2 against the shuffled one.

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
    """Share of the two views of [N, 2, D] that are nearer to each other than to all else, [N]."""
    rows = clips.flatten(0, 1)
    similarity = rows @ rows.T
    similarity.fill_diagonal_(-torch.inf)
    numbers = torch.arange(len(rows))
    match = similarity[numbers, numbers ^ 1]
    # A tie is not a win: a network that maps all clips to one point knows none of them.
    wins = (similarity >= match[:, None]).sum(dim=1) == 1
    return wins.double().view(-1, 2).mean(dim=1)


def _same_video_recall(features: Tensor) -> Tensor:
    """R@1 of view 0 of each video among all views 1, [N]; features [N, 2, F]."""
    numbers = torch.arange(len(features))
    ranks = first_match_ranks(features[:, 1], numbers, features[:, 0], numbers)
    return (ranks == 1).double()
