"""The values of the options that say which network meets which videos, and how."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdual.console import say


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """The values of `embedding_options` and of what some commands add, under their names there.

    What the methods return is imported when they are called: torch takes seconds, and `--help`
    does not wait for it. All commands import what is heavy where they use it.
    """

    device: str
    decode: Any
    workers: int | None
    root: Path | None
    allow_missing: bool = False
    clips_per_video: int = 10
    stride: int | None = None
    batch_size: int = 8
    random_weights: bool = False

    def network(self, path: Path, *, random_weights: bool | None = None) -> Any:
        """Load the network of a run, a checkpoint or an export; random weights if asked for."""
        from fastdual.training.execution import choose_device
        from fastdual.weights.load import load_network

        random = self.random_weights if random_weights is None else random_weights
        return load_network(path, random_weights=random, device=str(choose_device(self.device)))

    def videos(self, data: Path) -> Any:
        """Open the index of a folder, list or index file."""
        from fastdual.loaders.index import describe_left_out, open_index

        index = open_index(data, root=self.root, allow_missing=self.allow_missing)
        if left_out := describe_left_out(index):
            say(f"note: {left_out}", err=True)
        return index

    def options(self) -> Any:
        """Return the EmbedOptions."""
        from fastdual.evaluate.embed import EmbedOptions

        return EmbedOptions(
            clips_per_video=self.clips_per_video,
            frame_stride=self.stride,
            batch_size=self.batch_size,
            decode=self.decode,
            num_workers=self.workers,
        )
