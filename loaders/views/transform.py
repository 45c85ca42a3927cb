"""A transform of the user's own, applied to every view."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastdual.errors import InputError
from fastdual.loaders.plan import ClipSpec
from fastdual.loaders.plan.random_words import random_words

Transform = Callable[[Tensor], Tensor]
"""From a view [T, 3, H, W], float32 RGB in [0, 1], to what the network is given."""

_STREAM = 1 << 63  # keeps these numbers apart from the plan's


def transformed(
    clips: Tensor,
    transform: Transform,
    spec: ClipSpec,
    *,
    key: tuple[int, int],
    videos: NDArray[np.int64],
) -> Tensor:
    """Apply a transform to each view, with torch's generator seeded by (seed, epoch, video, view).

    Args:
        clips: [B, V, 3, T, H, W], normalised.
        transform: From [T, 3, H, W] to a tensor of the same axes.
        spec: Of the clips; says how they are normalised.
        key: Seed and epoch.
        videos: [B] index numbers.

    Returns:
        [B, V, C, T, H', W'], as the transform left the values.

    Raises:
        InputError: The transform returned something else.
    """
    shape = (3, 1, 1, 1)
    mean, std = (clips.new_tensor(value).view(shape) for value in (spec.mean, spec.std))
    views = (clips * std + mean).clamp_(0, 1).transpose(2, 3)  # [B, V, T, 3, H, W]
    seeds = random_words((key[0] ^ _STREAM, key[1]), videos, views.shape[1]) >> np.uint64(1)
    devices = [clips.device] if clips.device.type == "cuda" else []
    made = []
    with torch.random.fork_rng(devices=devices):
        for video, row in zip(views, seeds.tolist(), strict=True):
            for view, seed in zip(video, row, strict=True):
                torch.manual_seed(seed)
                made.append(_checked(transform(view)))
    return torch.stack(made).view(*views.shape[:2], *made[0].shape).transpose(2, 3)


def _checked(view: Tensor) -> Tensor:
    if not isinstance(view, Tensor) or view.ndim != 4:
        got = tuple(view.shape) if isinstance(view, Tensor) else type(view).__name__
        raise InputError(f"the transform returned {got}; it must return a view [T, C, H, W]")
    return view
