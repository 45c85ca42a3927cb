"""A pretrained backbone, ready for use: videos or clips -> features, with its preprocessing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fastdual.config import PretrainConfig
from fastdual.errors import FailureError
from fastdual.loaders.index import VideoIndex
from fastdual.loaders.index.request import Videos, is_video, open_videos
from fastdual.loaders.loader import ClipLoader

# Clips per forward pass; the activations of more would not fit a small machine.
CLIPS_AT_ONCE = 32


class VideoEncoder(nn.Module):
    """A backbone, pooled: clips -> features; with the preprocessing of its training.

    Args:
        backbone: Maps [N, 3, T, H, W] to [N, F, t, h, w].
        config: Its clips (`config.clip`) and its name (`config.model.backbone`).
        weights_sha256: SHA-256 of the file with the weights, or "random weights, seed N".
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, config: PretrainConfig, *, weights_sha256: str) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = config
        self.weights_sha256 = weights_sha256
        self.feature_dim = int(backbone.feature_dim)  # type: ignore[arg-type]
        shape = (1, 3, 1, 1, 1)
        for name, values in (("mean", config.clip.mean), ("std", config.clip.std)):
            self.register_buffer(name, torch.tensor(values).view(shape), persistent=False)

    def extra_repr(self) -> str:
        """Return what the network is given, and which weights it has."""
        clip = self.config.clip
        return (
            f"{self.config.model.backbone}, clips {[3, *clip.clip_shape]} at stride "
            f"{clip.frame_stride} -> {self.feature_dim} features, {self.weights_sha256[:24]}"
        )

    def forward(self, clips: Tensor) -> Tensor:
        """Return features [N, F] of preprocessed clips [N, 3, T, H, W]."""
        maps: Tensor = self.backbone(clips)
        return maps.mean(dim=(2, 3, 4))

    def features(self, clips: Tensor) -> Tensor:
        """Return features [N, F] of clips [N, 3, T, H, W], as a DualModel does."""
        features: Tensor = self(clips)
        return features

    @torch.inference_mode()
    def embed(
        self,
        videos: Tensor | NDArray[np.uint8] | Videos,
        *,
        clips_per_video: int = 10,
        batch_size: int = 8,
        num_workers: int | None = None,
    ) -> Tensor:
        """Return the features of videos, averaged over their clips, or of frames; on the CPU.

        The network works in evaluation mode, whatever mode it is in.

        Args:
            videos: A video's name: [F]. A list of names: [N, F], in its order. A folder, a CSV file
                or an index: [N, F], in the order of `fastdual.open_index(videos).paths`. Frames of
                one clip, a tensor or an array as `preprocess` takes it, or of N: [F] or [N, F].
            clips_per_video: Clips of a video, spread evenly over it; of no meaning for frames.
            batch_size: Videos decoded together.
            num_workers: Decoding processes; None: one per CPU.

        Raises:
            InputError: Videos are missing or cannot be used.
            FailureError: A video cannot be decoded; names it.
            ValueError: Frames of another dtype or shape.
        """
        was_training = self.training
        self.eval()
        try:
            if isinstance(videos, np.ndarray):
                videos = torch.from_numpy(videos)
            if isinstance(videos, Tensor):
                frames = videos[None] if videos.ndim == 4 else videos
                features = self._embed_clips(self.preprocess(frames))
                return features[0] if videos.ndim == 4 else features
            index = open_videos(videos)
            rows = self._embed_videos(index, clips_per_video, batch_size, num_workers)
        finally:
            self.train(was_training)
        if isinstance(videos, list | tuple):
            number = {index.path(row): row for row in range(len(index))}
            return rows[[number[Path(video).absolute()] for video in videos]]
        return rows[0] if is_video(videos) else rows

    def _embed_videos(
        self, index: VideoIndex, clips_per_video: int, batch_size: int, num_workers: int | None
    ) -> Tensor:
        spec = replace(self.config.clip, mode="evaluate", clips_per_video=clips_per_video)
        loader = ClipLoader(
            index,
            spec,
            batch_size=min(batch_size, len(index)),
            device=self.mean.device,
            num_workers=num_workers,
            shuffle=False,
            drop_last=False,
        )
        rows: dict[int, Tensor] = {}
        with loader:
            for batch in loader:
                features = self._embed_clips(batch.clips.flatten(0, 1))
                means = features.view(*batch.clips.shape[:2], -1).mean(dim=1)
                rows.update(zip(batch.video_ids.tolist(), means, strict=True))
        for video in range(len(index)):
            if video not in rows:  # another one was shown in its place
                raise FailureError(f"{index.path(video)} cannot be decoded: leave it out")
        return torch.stack([rows[video] for video in range(len(index))])

    def _embed_clips(self, clips: Tensor) -> Tensor:
        parts = torch.split(clips, CLIPS_AT_ONCE)
        return torch.cat([self.features(part).float() for part in parts]).cpu()

    def preprocess(self, frames: Tensor) -> Tensor:
        """Resize frames, crop their centre and normalise them.

        Args:
            frames: uint8 RGB, [N, T, 3, H, W] as torchcodec decodes them, or [N, T, H, W, 3]:
                `config.clip.frames_per_clip` frames that lie `config.clip.frame_stride` apart in
                the video.

        Returns:
            Clips [N, 3, T, crop, crop] float32 for `forward`, on the network's device.

        Raises:
            ValueError: Frames of another dtype or shape.
        """
        clip = self.config.clip
        is_last, is_third = (frames.ndim == 5 and frames.shape[axis] == 3 for axis in (4, 2))
        if frames.dtype != torch.uint8 or not (is_last or is_third):
            raise ValueError(
                f"frames are {tuple(frames.shape)} {frames.dtype}, must be uint8 [N, T, 3, H, W] "
                "or [N, T, H, W, 3]"
            )
        count, time = frames.shape[:2]
        if time != clip.frames_per_clip:
            raise ValueError(
                f"a clip has {time} frames, this network takes {clip.frames_per_clip} that lie "
                f"{clip.frame_stride} apart; of a whole video, embed(file) chooses them"
            )
        pictures = frames.to(self.mean.device).flatten(0, 1)
        pictures = (pictures.permute(0, 3, 1, 2) if is_last else pictures).float()
        size = (clip.resize_height, clip.resize_width)
        pictures = nn.functional.interpolate(
            pictures, size, mode="bilinear", align_corners=False, antialias=True
        )
        top, left = ((side - clip.crop_size + 1) // 2 for side in size)
        pictures = pictures[..., top : top + clip.crop_size, left : left + clip.crop_size]
        clips = pictures.reshape(count, time, *pictures.shape[1:]).transpose(1, 2)
        normalised: Tensor = (clips / 255 - self.mean) / self.std
        return normalised
