"""The settings of a stored run: what they mean now, and which of them may change."""

from collections.abc import Mapping
from typing import Any

# Keys that a resumed run may change: how the work is done, not what is computed from which clips.
RESUME_KEYS = frozenset(
    {
        "data.augment",
        "data.decode",
        "data.num_workers",
        "data.prefetch",
        "loss.backend",
        "model.channel_multiple",
        "run.device",
        "run.precision",
        "run.compile",
        "run.recompute_activations",
        "run.log_every_steps",
        "run.checkpoint_every_steps",
        "run.keep_checkpoints",
        "run.keep_every_epochs",
        "run.timeout_seconds",
        "run.verbose",
        "run.numa_binding",
        "run.wandb_project",
    }
)

# A resumed run may be made longer or shorter, which changes the learning rates that follow.
LENGTH_KEYS = frozenset({"schedule.epochs"})

# Keys of older versions that decide nothing now.
_RETIRED_KEYS = frozenset({"optimiser.shard_state"})

# What older versions did where they had no setting for it.
_PRETRAINING = {"clip.contrast_about": "128", "model.batch_norm_views": "all"}
_FINETUNING = {"clip.contrast_about": "128", "clip.short_start": "first"}


def supported(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a stored run, by dotted key, as this version understands them.

    Keys that are retired are left out, so that runs that hold them can be read. A setting that is
    younger than the run gets the value that the run had without it.
    """
    older: Mapping[str, Any] = {}
    if "loss.objective" in stored:
        older = _PRETRAINING
    elif "model.weights" in stored:
        older = _FINETUNING
    kept = {key: value for key, value in stored.items() if key not in _RETIRED_KEYS}
    return {**older, **kept}
