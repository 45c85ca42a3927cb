"""Embeddings of the pretraining views of videos that were not trained on.

Shapes: B videos of a batch, N videos, V = 4 views, S segments, D embedding size, F features.
"""

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fastdual.config import PretrainConfig
from fastdual.errors import InputError
from fastdual.evaluate.embed import EmbedOptions
from fastdual.evaluate.passes import one_pass
from fastdual.loaders.index import VideoIndex
from fastdual.loaders.loader import ClipBatch
from fastdual.loaders.plan import ALL_VIEWS
from fastdual.model.dual import DualModel
from fastdual.model.encoder import CLIPS_AT_ONCE, VideoEncoder
from fastdual.model.frozen import check_frozen, snapshot
from fastdual.weights.load import Network

HELD_OUT_SEED = 20_210_704  # the clips of every held-out measurement, whatever the run's own seed


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
    """Embed one pass of a loader of pretraining views, with the model in evaluation mode.

    Args:
        model: On the loader's device.
        loader: Yields the four views of videos.

    Raises:
        InputError: A backbone without heads.
        FailureError: A weight or statistic moved.
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
    """Embed the pretraining views of a held-out split, drawn with a seed that no run changes.

    Args:
        network: With heads.
        index: The videos.
        split: Name of a split; None: every video.
        options: How the videos are decoded.

    Raises:
        InputError: No such split, or a network without heads.
        FailureError: Too many videos cannot be decoded, or a weight or statistic moved.
    """
    config = network.config
    loader = one_pass(
        index,
        replace(config.clip, views=ALL_VIEWS),  # whatever its objective compared
        index.split(split),
        batch_size=config.data.batch_size,
        seed=HELD_OUT_SEED,
        device=str(network.device),
        decode=options.decode,
        num_workers=options.num_workers,
    )
    with closing(loader):
        return held_out_embeddings(network.model, loader)


def trains_segments(config: PretrainConfig) -> bool:
    """Whether the objective reaches the segments' head, which keeps random weights otherwise."""
    return config.loss.objective != "clip"


def _unseen_rows(video_ids: Tensor, seen: set[int]) -> Tensor:
    """Return the rows of new videos: a substitute would be a second positive of its video."""
    rows = []
    for row, video in enumerate(video_ids.tolist()):
        if video not in seen:
            seen.add(video)
            rows.append(row)
    return torch.tensor(rows, dtype=torch.int64, device=video_ids.device)


def _embed_views(model: DualModel, views: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return clip embeddings [B, V, D], those of segments [B, V, S, D'] and features [B, V, F]."""
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
