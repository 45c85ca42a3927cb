"""Which process of how many this is, as torchrun, `--gpus` or srun say it."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fastdual.errors import InputError


@dataclass(frozen=True)
class World:
    """The place of this process among all processes of a run.

    Attributes:
        rank: Number of this process.
        size: Number of processes.
        local_rank: Number of this process on its machine.
        local_size: Number of processes on its machine.
        launcher: What started them.
        address: Host and port where rank 0 keeps the store; None: as torch's environment says.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    launcher: Literal["none", "torchrun", "slurm"] = "none"
    address: tuple[str, int] | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run folder."""
        return self.rank == 0

    def name(self, ranks: list[int]) -> str:
        """Return words for some ranks, at most 8 by number: "ranks 1, 3 of 8"."""
        shown = ", ".join(map(str, ranks[:8])) + (" ..." if len(ranks) > 8 else "")
        return f"rank{'s' if len(ranks) > 1 else ''} {shown} of {self.size}"


def read_world(environment: Mapping[str, str] = os.environ) -> World:
    """Return the place that torchrun (or `--gpus`) or srun gave to this process, or the only one.

    Raises:
        InputError: The variables contradict each other.
    """
    if "RANK" in environment or "WORLD_SIZE" in environment:
        size = _number(environment, "WORLD_SIZE")
        world = World(
            rank=_number(environment, "RANK"),
            size=size,
            local_rank=_number(environment, "LOCAL_RANK"),
            local_size=_number(environment, "LOCAL_WORLD_SIZE", default=size),
            launcher="torchrun",
        )
    elif _number(environment, "SLURM_STEP_NUM_TASKS", default=1) > 1:
        # Of the step, not of the job: a batch script is one process whatever its job may use.
        step = (_number(environment, f"SLURM_{name}", default=0) for name in ("JOB_ID", "STEP_ID"))
        nodes = environment.get("SLURM_STEP_NODELIST", "localhost")
        world = World(
            rank=_number(environment, "SLURM_PROCID"),
            size=_number(environment, "SLURM_STEP_NUM_TASKS"),
            local_rank=_number(environment, "SLURM_LOCALID"),
            # 4(x2): two nodes of 4 tasks each
            local_size=int(environment.get("SLURM_STEP_TASKS_PER_NODE", "1").split("(")[0]),
            launcher="slurm",
            address=(first_node(nodes), 20_000 + sum(step) % 20_000),
        )
    else:
        return World()
    if not 0 <= world.rank < world.size:
        raise InputError(f"rank {world.rank} is not in a world of {world.size} processes")
    return world


def first_node(nodes: str) -> str:
    """Return the first host of a SLURM list: node[03-05,9]x,other -> node03x.

    Raises:
        InputError: The list names none.
    """
    match = re.match(r"([^,\[]+)(?:\[(\w+)[^\]]*\]([^,\[]*))?", nodes)
    if match is None:
        raise InputError(f"SLURM_STEP_NODELIST = {nodes!r}: does not name a node")
    return "".join(part or "" for part in match.groups())


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name, "" if default is None else str(default))
    if not text.isdecimal():
        raise InputError(
            f"{name} = {text!r}: RANK, WORLD_SIZE and LOCAL_RANK (or srun's SLURM_PROCID and "
            "SLURM_LOCALID) must all be numbers; start with --gpus, torchrun or srun"
        )
    return int(text)
