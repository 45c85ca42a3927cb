"""Which process of how many this is; a single process needs nothing of torch.distributed."""

import os
from dataclasses import dataclass

from fastdual.loaders.errors import InputError


@dataclass(frozen=True)
class World:
    """The place of this process: rank `rank` of `size`; `local_rank` counts within the machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run folder."""
        return self.rank == 0


def read_world() -> World:
    """The place that a launcher gave to this process (torchrun's variables), or the only one.

    Raises:
        InputError: several processes; batch norm is not synchronised between them yet, so they
            would not train what one process with the whole batch trains.
    """
    world = World(
        rank=int(os.environ.get("RANK", "0")),
        size=int(os.environ.get("WORLD_SIZE", "1")),
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
    )
    if world.size > 1:
        raise InputError(
            f"WORLD_SIZE = {world.size}: training in several processes is not supported yet; "
            "start one process (without torchrun)"
        )
    return world
