"""What all contestants of bench.train share: backbone, size, device, config and batches."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bench.parts.results import Row
from fastdual.config import PretrainConfig, resolve
from fastdual.loaders.loader import ClipBatch
from fastdual.loaders.plan import draw_plan


@dataclass(frozen=True)
class Size:
    """Videos per batch; frames and pixels per clip."""

    batch: int
    frames: int
    crop: int


@dataclass(frozen=True)
class Case:
    """One backbone at one size on one device."""

    backbone: str
    size: Size
    device: torch.device

    def config(self, **settings: Any) -> PretrainConfig:
        """Return the config of a contestant, whose settings come last."""
        values = {
            "model.backbone": self.backbone,
            "data.batch_size": self.size.batch,
            "clip.frames_per_clip": self.size.frames,
            "clip.crop_size": self.size.crop,
            "clip.resize_height": self.size.crop * 8 // 7,
            "clip.resize_width": self.size.crop * 3 // 2,
            "run.device": str(self.device),
            # Small, so that a few steps do not magnify the rounding errors of the first too much.
            "optimiser.learning_rate": 1e-5,
            **settings,
        }
        return resolve([], [f"{key}={value}" for key, value in values.items()]).config

    def describe(self) -> Row:
        """Return the columns of a row that name this case."""
        return {
            "backbone": self.backbone,
            "videos": self.size.batch,
            "clip": f"3x{self.size.frames}x{self.size.crop}x{self.size.crop}",
        }

    def batch(self, seed: int, dtype: torch.dtype) -> ClipBatch:
        """Return random clips [B, V, C, T, H, W] on the device, in the loader's memory layout."""
        size, videos = self.size, np.arange(self.size.batch)
        plan = draw_plan(
            self.config().clip, seed=seed, epoch=0, videos=videos, num_frames=videos * 0 + 99
        )
        generator = torch.Generator().manual_seed(seed)
        shape = (size.batch, 3, size.frames, size.crop, size.crop, 3)
        views = torch.randn(shape, generator=generator)
        assert plan.permutation is not None
        permutation = torch.from_numpy(plan.permutation)
        # The shuffled view: segment i is segment permutation[i] of view 2.
        segments = views[:, 2].unflatten(1, (permutation.shape[1], -1))
        moved = torch.stack([s[p] for s, p in zip(segments, permutation, strict=True)])
        clips = torch.cat([views, moved.flatten(1, 2)[:, None]], dim=1)
        ids = torch.from_numpy(videos).to(self.device)
        return ClipBatch(
            clips.to(self.device, dtype).permute(0, 1, 5, 2, 3, 4),
            permutation.to(self.device),
            ids,
            torch.full_like(ids, -1),
            plan,
        )
