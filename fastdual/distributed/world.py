"""Which process of how many this is, as torchrun, `--gpus` or srun say it."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fastdual.errors import InputError, is_number, shown


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
    """Return the place that torchrun (or `--gpus`), srun or a cluster gave to this process.

    Without any of their variables it is the only one. A cluster's operator (Kubeflow and others)
    gives RANK and WORLD_SIZE; without LOCAL_RANK each process is taken to be alone on its machine.

    Raises:
        InputError: The variables contradict each other, or ask for a launcher of their own.
    """
    if "RANK" in environment or "WORLD_SIZE" in environment:
        world = _torchrun_world(environment)
    elif _number(environment, "SLURM_STEP_NUM_TASKS", default=1) > 1:
        world = _slurm_world(environment)
    elif _at_least(environment, "PET_NNODES") > 1:
        raise InputError(
            f"PET_NNODES = {environment['PET_NNODES']}: a cluster asks for processes on several "
            "machines; add --gpus N, which takes the rest from the PET_ variables, or start with "
            "torchrun"
        )
    else:
        return World()
    if not 0 <= world.rank < world.size:
        raise InputError(f"rank {world.rank} is not in a world of {world.size} processes")
    if not 0 <= world.local_rank < world.local_size <= world.size:
        raise InputError(
            f"local rank {world.local_rank} of {world.local_size} is not in a world of "
            f"{world.size} processes"
        )
    return world


@dataclass(frozen=True)
class Machines:
    """The machines of a job, as a cluster's operator says them to the one process on each.

    Attributes:
        nodes: How many there are.
        node_rank: Number of this one.
        endpoint: HOST:PORT of number 0; None: not said.
    """

    nodes: int
    node_rank: int
    endpoint: str | None


def read_machines(environment: Mapping[str, str] = os.environ) -> Machines | None:
    """Return the machines that PET_NNODES (Kubeflow) or RANK without LOCAL_RANK speak of, if any.

    Raises:
        InputError: A variable that must be a number is none.
    """
    if "LOCAL_RANK" in environment:  # the processes have been started
        return None
    places = ((f"{p}MASTER_ADDR", f"{p}MASTER_PORT") for p in ("PET_", ""))
    known = [
        f"{environment[a]}:{environment[p]}" for a, p in places if {a, p} <= environment.keys()
    ]
    endpoint = environment.get("PET_RDZV_ENDPOINT") or (known[0] if known else None)
    if _at_least(environment, "PET_NNODES") > 1:
        rank = _number(environment, "PET_NODE_RANK", default=0)
        return Machines(_at_least(environment, "PET_NNODES"), rank, endpoint)
    if _at_least(environment, "WORLD_SIZE") > 1:
        return Machines(_number(environment, "WORLD_SIZE"), _number(environment, "RANK"), endpoint)
    return None


def _torchrun_world(environment: Mapping[str, str]) -> World:
    size, rank = _number(environment, "WORLD_SIZE"), _number(environment, "RANK")
    alone = "LOCAL_RANK" not in environment
    if alone and _at_least(environment, "PET_NPROC_PER_NODE") > 1:
        raise InputError(
            f"PET_NPROC_PER_NODE = {environment['PET_NPROC_PER_NODE']}: a cluster asks for several "
            "processes on each machine; add --gpus N, or start with torchrun"
        )
    return World(
        rank=rank,
        size=size,
        local_rank=_number(environment, "LOCAL_RANK", default=0),
        local_size=_number(environment, "LOCAL_WORLD_SIZE", default=1 if alone else size),
        launcher="torchrun",
    )


def _slurm_world(environment: Mapping[str, str]) -> World:
    # Of the step, not of the job: a batch script is one process whatever its job may use.
    step = (_number(environment, f"SLURM_{name}", default=0) for name in ("JOB_ID", "STEP_ID"))
    size, node = _number(environment, "SLURM_STEP_NUM_TASKS"), environment.get("SLURM_NODEID", "0")
    counts = environment.get("SLURM_STEP_TASKS_PER_NODE")
    tasks = [size] if counts is None else tasks_per_node(counts)
    if counts is not None and (not is_number(node) or int(node) >= len(tasks)):
        raise InputError(
            f"SLURM_NODEID = {shown(node)}: SLURM_STEP_TASKS_PER_NODE = {shown(counts)} names "
            f"{len(tasks)} nodes; start with srun"
        )
    return World(
        rank=_number(environment, "SLURM_PROCID"),
        size=size,
        local_rank=_number(environment, "SLURM_LOCALID"),
        local_size=tasks[int(node) if counts else 0],
        launcher="slurm",
        address=(
            first_node(environment.get("SLURM_STEP_NODELIST", "localhost")),
            20_000 + sum(step) % 20_000,
        ),
    )


def tasks_per_node(text: str) -> list[int]:
    """Return how many tasks each node has: "2(x3),1" -> [2, 2, 2, 1].

    Raises:
        InputError: The text is of another form.
    """
    counts: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,6})(?:\(x(\d{1,6})\))?\s*", part)
        if match is None:
            raise InputError(
                f"SLURM_STEP_TASKS_PER_NODE = {shown(text)}: must be counts as in 2(x3),1; start "
                "with srun, or unset the SLURM_ variables"
            )
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def first_node(nodes: str) -> str:
    """Return the first host of a SLURM list: rack[1-2]n[03-05,9]x,other -> rack1n03x.

    Raises:
        InputError: The list names none.
    """
    first, depth = "", 0
    for letter in nodes.strip():
        depth += (letter == "[") - (letter == "]")
        if letter == "," and depth == 0:
            break
        first += letter
    name, found = first, int(depth == 0)
    while found and "[" in name:  # the innermost brackets first: each stands for its first number
        name, found = re.subn(r"\[(\w+)[^\[\]]*\]", r"\1", name)
    if not found or re.fullmatch(r"[\w.:-]+", name) is None:
        raise InputError(f"SLURM_STEP_NODELIST = {shown(nodes)}: does not name a node")
    return name


def _at_least(environment: Mapping[str, str], name: str) -> int:
    """Return the (smallest) number of "2" or "2:4"; 1 for anything else, such as "auto"."""
    text = environment.get(name, "1").split(":")[0]
    return int(text) if text.isdecimal() and len(text) < 7 else 1


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name, "" if default is None else str(default)).strip()
    if not is_number(text):
        raise InputError(
            f"{name} = {shown(text)}: RANK, WORLD_SIZE and LOCAL_RANK (or srun's SLURM_PROCID and "
            "SLURM_LOCALID) must all be numbers; start with --gpus, torchrun or srun"
        )
    return int(text)
