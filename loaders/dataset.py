"""ClipDataset: the loader as torch's IterableDataset, for DataLoader, Lightning and Accelerate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch.distributed as dist
from torch.utils.data import IterableDataset, get_worker_info

from fastdual.errors import InputError
from fastdual.loaders.batch.clip_batch import ClipBatch
from fastdual.loaders.index.request import Videos, open_videos
from fastdual.loaders.loader import ClipLoader
from fastdual.loaders.plan import ClipSpec


class ClipDataset(IterableDataset[ClipBatch]):
    """Yields finished batches: wrap it as `DataLoader(dataset, batch_size=None)`.

    It decodes in worker processes of its own, so the DataLoader must have none. Under
    torch.distributed each process yields its own part of every batch, without a sampler. Each
    iteration starts a new epoch; after `load_state_dict` the first one goes on where the state was
    saved, as torchdata's StatefulDataLoader expects.

    Args:
        videos, spec, options: As of ClipLoader.
        batch_size: Videos of a batch of this process.

    Raises:
        InputError: As ClipLoader; or, in the first iteration, that the DataLoader has workers.
    """

    def __init__(
        self, videos: Videos, spec: ClipSpec | None = None, *, batch_size: int, **options: Any
    ) -> None:
        self._videos, self._spec, self._batch_size = videos, spec, batch_size
        self._options = options
        self._loader: ClipLoader | None = None
        self._world = (0, 1)
        self._is_fresh = True  # the next iteration starts at the loader's own place
        self._opened()  # a mistake is told here

    def __repr__(self) -> str:
        return repr(self._opened()).replace("ClipLoader", "ClipDataset", 1)

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return len(self._opened())

    def __iter__(self) -> Iterator[ClipBatch]:
        if get_worker_info() is not None:
            raise InputError(
                "ClipDataset has worker processes of its own: use DataLoader(num_workers=0)"
            )
        loader = self._opened()
        if not self._is_fresh and loader.step:
            # An epoch that was broken off is not gone on with, as of any DataLoader.
            loader.set_epoch(loader.epoch + 1)
        self._is_fresh = False
        yield from loader

    def state_dict(self) -> dict[str, Any]:
        """Return the place of the next batch, as plain values."""
        return self._opened().state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a place that `state_dict` returned, in the next iteration.

        Raises:
            InputError: The state is of other data, another seed or another batch size.
        """
        self._opened().load_state_dict(state)
        self._is_fresh = True

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be this epoch, from its start; without it, epochs count up.

        Raises:
            InputError: No number of an epoch.
        """
        self._opened().set_epoch(epoch)
        self._is_fresh = True

    def close(self) -> None:
        """End the workers at once; iterating again starts them again."""
        if self._loader is not None:
            self._loader.close()

    def _opened(self) -> ClipLoader:
        """Return the loader for the processes that there are now."""
        here = (0, 1)
        if dist.is_available() and dist.is_initialized():
            here = (dist.get_rank(), dist.get_world_size())
        if self._loader is None or here != self._world:
            self.close()
            self._videos = open_videos(self._videos)
            self._world, (rank, size) = here, here
            self._loader = ClipLoader(
                self._videos,
                self._spec,
                batch_size=self._batch_size * size,
                rank=rank,
                world_size=size,
                **self._options,
            )
        return self._loader
