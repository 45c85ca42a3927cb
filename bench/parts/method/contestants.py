"""What bench.method compares: trainings, their settings and their search, and two baselines.

Every value that decides a result stands here, over the library's defaults and not over a recipe, so
that results which are in the log are not lost when a recipe changes.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

Settings = Mapping[str, Any]

CLIP, FULL, SCRATCH, LONG = "clip", "clip+rank+coherence", "scratch", "scratch, longer"
# The objective of each pretraining, and the weights of its parts.
PRETRAINED: dict[str, Settings] = {
    FULL: {"loss.objective": FULL},
    CLIP: {"loss.objective": CLIP},
    "clip+rank": {"loss.objective": "clip+rank"},
    # The share of its gradient that the released gather leaves the clip contrast on 8 processes.
    "clip/8+rank+coherence": {"loss.objective": FULL, "loss.clip_weight": 0.125},
}
# In the order in which a round measures them: what the claim needs comes first.
CONTESTANTS = (FULL, SCRATCH, CLIP, "clip+rank", LONG, "clip/8+rank+coherence")

STEPS, _BATCH = 3120, 16
_CLIP: Settings = {
    "clip.frames_per_clip": 8,
    "clip.resize_height": 54,
    "clip.resize_width": 72,
    "clip.crop_size": 48,
}
PRETRAINING: Settings = {
    **_CLIP,
    "clip.num_segments": 2,
    "clip.brightness": (0.6, 1.4),
    "clip.contrast": (0.6, 1.4),
    "clip.saturation": (0.6, 1.4),
    "clip.hue_degrees": (-30.0, 30.0),
    "clip.blur_sigma": (0.1, 1.0),
    "data.batch_size": _BATCH,
    "model.backbone": "tiny",
    "loss.clip_temperature": 1.0,
    "loss.coherence_temperature": 3.0,
    "loss.rank_temperature": 0.05,
    "optimiser.name": "adamw",
    "optimiser.learning_rate": 3e-4,
    "optimiser.weight_decay": 0.01,
    "schedule.kind": "cosine",
    "schedule.warmup_epochs": 1.0,
}
FINETUNING: Settings = {
    **_CLIP,
    "clip.jitter_probability": 0.8,
    "data.batch_size": _BATCH,
    "model.backbone": "tiny",
    "optimiser.name": "adamw",
    "optimiser.learning_rate": 1e-3,
    "optimiser.weight_decay": 1e-3,
    "schedule.kind": "cosine",
}
# Steps of fine-tuning by per cent of the training labels, rounded to whole epochs.
FINETUNE_STEPS = {100: 3900, 30: 2000, 10: 1000}
# Clips that pretraining (4 views a video) and fine-tuning embed, over those of fine-tuning alone.
LONGER = (4 * STEPS + FINETUNE_STEPS[100]) / FINETUNE_STEPS[100]

# The search: a setting of each list for every combination; judged with 30 % of the labels.
GRID: dict[str, dict[str, tuple[Any, ...]]] = {
    name: {
        "optimiser.learning_rate": (1e-4, 3e-4, 1e-3),
        "loss.clip_temperature": (0.07, 1.0),
        **({} if name == CLIP else {"loss.coherence_temperature": (0.07, 3.0)}),
    }
    for name in (FULL, CLIP, "clip+rank")
}
GRID["clip+rank"].pop("loss.coherence_temperature")
GRID[SCRATCH] = {"optimiser.learning_rate": (3e-4, 1e-3, 3e-3), "length": (1.0, 3.0)}

_SIDE = 12  # of the pictures that are the features of a baseline


class MeanFrame(nn.Module):
    """The mean picture of a clip, 12 x 12: what can be told without seeing motion."""

    feature_dim = 3 * _SIDE**2

    def forward(self, clips: Tensor) -> Tensor:
        """Return maps [N, F, 1, 1, 1] of clips [N, 3, T, H, W]."""
        return _as_maps(clips.mean(dim=2))


class FrameDifference(nn.Module):
    """The difference of neighbouring frames, averaged over the clip, 12 x 12."""

    feature_dim = 3 * _SIDE**2

    def forward(self, clips: Tensor) -> Tensor:
        """Return maps [N, F, 1, 1, 1] of clips [N, 3, T, H, W]."""
        return _as_maps((clips[:, :, 1:] - clips[:, :, :-1]).abs().mean(dim=2))


def _as_maps(pictures: Tensor) -> Tensor:
    small = nn.functional.adaptive_avg_pool2d(pictures, _SIDE).flatten(1)
    return small[:, :, None, None, None]


BASELINES: dict[str, Callable[[], nn.Module]] = {
    "mean frame": MeanFrame,
    "frame difference": FrameDifference,
}
