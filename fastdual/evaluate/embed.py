"""Features of videos: pooled backbone features, averaged over the clips of a video.

Shapes: B videos of a batch, K clips per video, N videos, F features.
"""

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastdual.config import PretrainConfig
from fastdual.evaluate.features import FeatureSet, LeftOut
from fastdual.evaluate.passes import one_pass
from fastdual.loaders.batch.decoder import Requested
from fastdual.loaders.index import VideoIndex
from fastdual.loaders.plan import ClipSpec
from fastdual.model.dual import DualModel
from fastdual.model.encoder import CLIPS_AT_ONCE, VideoEncoder
from fastdual.model.frozen import kept_frozen
from fastdual.run.seen import seen
from fastdual.weights.load import Network

Progress = Callable[[int, int, int], None]
"""Called with (videos done, videos in all, videos that could not be decoded)."""


@dataclass(frozen=True, kw_only=True)
class EmbedOptions:
    """How videos are turned into features.

    Attributes:
        clips_per_video: Clips that are averaged, spread evenly over the video.
        frame_stride: Frames from one frame of a clip to the next; None: as in pretraining.
        batch_size: Videos decoded together.
        decode: Decoder, or "auto".
        num_workers: Decoding processes; None: as many as suit this machine.
    """

    clips_per_video: int = 10
    frame_stride: int | None = None
    batch_size: int = 8
    decode: Requested = "auto"
    num_workers: int | None = None

    def spec(self, config: PretrainConfig) -> ClipSpec:
        """Return the clips that a network of this config is evaluated on."""
        return replace(
            config.clip,
            mode="evaluate",
            clips_per_video=self.clips_per_video,
            frame_stride=self.frame_stride or config.clip.frame_stride,
        )


def embed(
    network: Network,
    index: VideoIndex,
    *,
    splits: Sequence[str] | None = None,
    options: EmbedOptions = EmbedOptions(),  # noqa: B008, immutable
    progress: Progress | None = None,
) -> FeatureSet:
    """Compute the features of every video of some splits, each video once.

    A video that cannot be decoded is left out (the loader warns and names it) and noted.

    Args:
        network: Its device is where the work is done.
        index: The videos.
        splits: Names of splits; None: every video.
        options: Clips and decoding.
        progress: Told after each batch.

    Raises:
        InputError: No such split, or features that are not finite.
        FailureError: Too many videos cannot be decoded, or a weight or statistic moved.
    """
    wanted = _videos_of(index, splits)
    rows: dict[int, Tensor] = {}
    shown = 0
    for videos, clips in embed_clips(network, index, splits=splits, options=options):
        # A substitute for a video that failed has a row of its own anyway.
        rows.update(zip(videos, clips.mean(dim=1), strict=True))
        shown += len(videos)
        if progress is not None:
            progress(shown, len(wanted), shown - len(rows))
    features = feature_set(network, index, options.spec(network.config), rows)
    return replace(features, left_out=left_out(index, wanted, rows))


def embed_clips(
    network: Network, index: VideoIndex, *, splits: Sequence[str] | None, options: EmbedOptions
) -> Iterator[tuple[list[int], Tensor]]:
    """Yield the numbers of each batch's videos, and the features [B, K, F] of their clips.

    A video may come twice, in place of one that could not be decoded. The features are on the CPU.

    Args:
        network: Its device is where the work is done.
        index: The videos.
        splits: Names of splits; None: every video.
        options: Clips and decoding.

    Raises:
        InputError: No such split.
        FailureError: Too many videos cannot be decoded, or, after the last batch, a weight moved.
    """
    loader = one_pass(
        index,
        options.spec(network.config),
        _videos_of(index, splits),
        batch_size=options.batch_size,
        device=str(network.device),
        decode=options.decode,
        num_workers=options.num_workers,
    )
    with loader, kept_frozen(network.model):
        for batch in loader:
            yield batch.video_ids.tolist(), _pooled(network.model, batch.clips)


def _videos_of(index: VideoIndex, splits: Sequence[str] | None) -> NDArray[np.int64]:
    if splits is None:
        return index.split(None)
    return np.unique(np.concatenate([index.split(name) for name in splits]))


@torch.inference_mode()
def _pooled(model: DualModel | VideoEncoder, clips: Tensor) -> Tensor:
    """Return features [B, K, F] on the CPU, float32, of clips [B, K, C, T, H, W]."""
    parts = torch.split(clips.flatten(0, 1), CLIPS_AT_ONCE)
    features = torch.cat([model.features(part).float() for part in parts])  # [B * K, F]
    return features.view(*clips.shape[:2], -1).cpu()


def feature_set(
    network: Network, index: VideoIndex, spec: ClipSpec, rows: dict[int, Tensor]
) -> FeatureSet:
    """Return features with what the index knows of their videos.

    Args:
        network: What computed the features.
        index: The videos.
        spec: The clips that were averaged.
        rows: [F] features by video number.
    """
    videos = np.array(sorted(rows), dtype=np.int64)
    known = network.trained_on
    described = "clips_per_video crop_size frame_stride frames_per_clip resize_height resize_width"
    settings = {name: getattr(spec, name) for name in described.split()}
    return FeatureSet(
        features=torch.stack([rows[video] for video in videos.tolist()]).numpy(),
        paths=tuple(index.paths[video] for video in videos),
        labels=index.labels[videos],
        class_names=index.class_names,
        groups=tuple(index.groups[video] for video in videos),
        splits={name: np.flatnonzero(np.isin(videos, of)) for name, of in index.splits.items()},
        weights_sha256=network.weights_sha256,
        data_fingerprint=index.fingerprint,
        settings={"backbone": network.config.model.backbone, **settings},
        pretrained_on=None if known is None else seen(known, index.sha256[videos]),
    )


def left_out(
    index: VideoIndex, wanted: NDArray[np.int64], shown: Container[int]
) -> tuple[LeftOut, ...]:
    """Return the wanted videos that were not shown, and those in the index's quarantine.

    Args:
        index: The videos.
        wanted: [N] numbers of videos.
        shown: Numbers of the videos that were decoded.
    """
    failed = (
        LeftOut(
            index.paths[video],
            "could not be decoded",
            tuple(name for name, of in index.splits.items() if video in of),
        )
        for video in wanted.tolist()
        if video not in shown
    )
    quarantined = (
        LeftOut(path, f"in the index's quarantine: {reason}", ())
        for path, reason in index.quarantine
    )
    return (*failed, *quarantined)
