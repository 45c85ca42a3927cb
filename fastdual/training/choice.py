"""The recipe of a run for which none was named: what suits the device and the number of videos."""

from dataclasses import dataclass

import torch

# R(2+1)D's activations for 64 videos of 4 views take 39 GB (docs/scale.md).
_PAPER_MEMORY_GIB = 48
# Ten batches of 64: an epoch of fewer is over before the queue of the loader is full.
_PAPER_VIDEOS = 640
_TINY_BATCH = 16


@dataclass(frozen=True)
class Choice:
    """A recipe, why it is this one, and the batch size where the recipe's is too large."""

    recipe: str
    reason: str
    batch_size: int | None = None


def choose_recipe(num_videos: int, device: torch.device) -> Choice:
    """Return the recipe for a first run.

    Args:
        num_videos: Of the split that is trained on.
        device: Where the run computes.
    """
    if device.type == "cpu":
        reason = "a CPU takes days for the paper's network"
    else:
        memory = torch.cuda.get_device_properties(device).total_memory / 2**30
        if memory >= _PAPER_MEMORY_GIB and num_videos >= _PAPER_VIDEOS:
            return Choice("paper-simclr", f"a GPU of {memory:.0f} GiB and {num_videos} videos")
        reason = (
            f"{num_videos} videos are few for the paper's network"
            if num_videos < _PAPER_VIDEOS
            else f"the GPU has {memory:.0f} GiB, the paper's network needs {_PAPER_MEMORY_GIB}"
        )
    few = num_videos if 2 <= num_videos < _TINY_BATCH else None
    return Choice("tiny", reason, few)
