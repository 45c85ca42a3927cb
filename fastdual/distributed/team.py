"""The processes of a run: which one this is, how they meet, and what they agree on.

A single process needs nothing of torch.distributed, and every method of its Team is trivial.
Several meet at a store; from then on a small group over gloo, apart from the one that carries
tensors, is for what is agreed on the host. Whoever does not answer in time is named.
"""

import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from fastdual.errors import FailureError, InputError

_T = TypeVar("_T")

# NCCL ends a process in its own way, so it is given longer than the host, which names the culprit.
_NCCL_EXTRA_SECONDS = 60.0
_GLOO_ERROR = re.compile("gloo|pair closure|timed out|connection (closed|reset)", re.IGNORECASE)
# All who can still speak hear of a failure within moments of each other.
_ROLL_CALL_SECONDS = 5.0
_STORE_STAYS_SECONDS = 2.0


@dataclass(frozen=True)
class World:
    """The place of this process: rank `rank` of `size`; `local_*` count within the machine.

    `address` is where rank 0 keeps the store, host and port; None: as torch's environment says.
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


class LostProcessError(FailureError):
    """Other processes of the run do not answer; what befell them they say themselves, if at all."""


def read_world(environment: Mapping[str, str] = os.environ) -> World:
    """The place that torchrun (or `--gpus`) or srun gave to this process, or the only one.

    Raises:
        InputError: the variables contradict each other.
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
    """The first host of a SLURM list: node[03-05,9]x,other -> node03x."""
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


class Team:
    """The processes of a run, once they have met.

    Args:
        world: the place of this process.
        store: keeps words of all processes; None where there is one process.
        timeout_seconds: who has not answered for so long is given up.
    """

    def __init__(self, world: World, store: Store | None, timeout_seconds: float) -> None:
        self.world = world
        self._store = store
        self._timeout = timedelta(seconds=timeout_seconds)
        self._group: dist.ProcessGroup | None = None
        self._asked: tuple[dist.Work, Tensor] | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run folder."""
        return self.world.is_main

    def connect(self, device: torch.device) -> None:
        """Connect all processes, with NCCL for tensors on a GPU and gloo otherwise."""
        missing = self._roll_call("join", seconds=self._timeout.total_seconds())
        if missing:
            raise LostProcessError(
                f"{_name(missing, self.world)} did not come within "
                f"{self._timeout.total_seconds():g} s; look at its own output"
            )
        on_gpu = device.type == "cuda"
        dist.init_process_group(
            "nccl" if on_gpu else "gloo",
            store=self._store,
            rank=self.world.rank,
            world_size=self.world.size,
            timeout=self._timeout + timedelta(seconds=_NCCL_EXTRA_SECONDS * on_gpu),
            device_id=device if on_gpu else None,
        )
        self._group = dist.new_group(backend="gloo", timeout=self._timeout)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors, in place, by their means over processes, in one message a dtype."""
        if self._group is None:
            return
        for dtype in {tensor.dtype: None for tensor in tensors}:  # in the same order everywhere
            same = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.reshape(-1) for tensor in same])
            dist.all_reduce(flat)
            flat /= self.world.size
            parts = torch.split(flat, [tensor.numel() for tensor in same])
            for tensor, part in zip(same, parts, strict=True):
                tensor.copy_(part.view(tensor.shape))

    def meet(self) -> None:
        """Wait on the host until all processes have come as far."""
        if self._group is not None:
            dist.barrier(self._group)

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """Means over processes of numbers that all of them hold, on the host."""
        if self._group is None:
            return dict(values)
        numbers = torch.tensor(list(values.values()), dtype=torch.float64)
        dist.all_reduce(numbers, group=self._group)
        return dict(zip(values, (numbers / self.world.size).tolist(), strict=True))

    def from_main(self, function: Callable[[], _T]) -> _T:
        """What a function returns on rank 0, or the error that it raises there, on all ranks."""
        if self._group is None:
            return function()
        outcome: list[Any] = [None]
        if self.is_main:
            try:
                outcome[0] = (function(), None)
            except (InputError, FailureError) as error:
                outcome[0] = (None, error)
        dist.broadcast_object_list(outcome, src=0, group=self._group)
        value, failed = outcome[0]
        if failed is not None:
            raise failed
        result: _T = value
        return result

    def check_equal(self, sections: Mapping[str, Mapping[str, Any]]) -> None:
        """Raise an InputError unless all processes hold the same plain values, by section."""
        if self._group is None:
            return
        mine = {f"{name}.{key}": v for name, part in sections.items() for key, v in part.items()}
        gathered: list[Any] = [None] * self.world.size
        dist.all_gather_object(gathered, mine, group=self._group)
        for rank, theirs in enumerate(gathered):
            for key, ours in gathered[0].items():
                if theirs.get(key) != ours:
                    raise InputError(
                        f"{key} is {theirs.get(key)!r} on rank {rank} and {ours!r} on rank 0: give "
                        "every process the same DATA, options and versions, on a file system that "
                        "all machines share"
                    )

    def agree(self, number: int) -> int:
        """The largest number that any process gave at the last call; 0 at the first.

        Nobody waits: the answer to a call is there when the next is made, a step later.
        """
        if self._group is None:
            return number
        before, self._asked = self._asked, None
        mine = torch.tensor([number])
        work = dist.all_reduce(mine, dist.ReduceOp.MAX, group=self._group, async_op=True)
        assert work is not None
        self._asked = (work, mine)
        if before is None:
            return 0
        before[0].wait()
        return int(before[1])

    def close(self) -> None:
        """Leave; a question that is under way is answered first."""
        if self._asked is not None:
            self._asked[0].wait()
            self._asked = None

    def who_is_lost(self, error: RuntimeError) -> LostProcessError:
        """Turn a failed collective into an error that names who did not take part."""
        reason = str(error).strip().splitlines()[-1]
        try:
            missing = self._roll_call("failed", seconds=_ROLL_CALL_SECONDS)
        except (RuntimeError, OSError):
            return LostProcessError(
                f"{_name([0], self.world)}, which keeps what all processes share, is gone; go on "
                "from the last checkpoint with --resume"
            )
        if not missing:
            return LostProcessError(f"the connection between the processes broke: {reason}")
        return LostProcessError(
            f"{_name(missing, self.world)} ended or did not answer within "
            f"{self._timeout.total_seconds():g} s; go on from the last checkpoint with --resume"
        )

    def _roll_call(self, occasion: str, *, seconds: float) -> list[int]:
        """Call out this rank and wait for the others'; returns those that stayed silent."""
        assert self._store is not None
        self._store.set(f"{occasion}/{self.world.rank}", "here")
        ranks = {f"{occasion}/{rank}": rank for rank in range(self.world.size)}
        deadline = time.monotonic() + seconds
        while not self._store.check(list(ranks)):
            if time.monotonic() > deadline:
                # The store ends with rank 0, so that rank leaves last.
                time.sleep(_STORE_STAYS_SECONDS * self.is_main)
                return [rank for key, rank in ranks.items() if not self._store.check([key])]
            time.sleep(0.05)
        return []


@contextmanager
def joined(world: World, *, device: torch.device, timeout_seconds: float) -> Iterator[Team]:
    """Meet the other processes; leave them at the end of the block.

    Raises:
        LostProcessError: they did not come, or were lost on the way.
    """
    if world.size == 1:
        yield Team(world, None, timeout_seconds)
        return
    store = _open_store(world, timeout_seconds)
    team = Team(world, store, timeout_seconds)
    try:
        team.connect(device)
        yield team
        team.close()
    except RuntimeError as error:
        if isinstance(error, FailureError) or not _is_of_a_collective(error):
            raise
        raise team.who_is_lost(error) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _open_store(world: World, timeout_seconds: float) -> Store:
    host, port = world.address or _main_address()
    # torchrun keeps one store over restarts; what was said before them must not be heard.
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if shared else ""
    keeps = world.is_main and not shared
    timeout = timedelta(seconds=timeout_seconds)
    try:
        if not keeps:
            wait_for_listener(host, port, seconds=timeout_seconds)
        store = TCPStore(host, port, world.size, keeps, timeout, wait_for_workers=False)
    except TimeoutError as error:
        raise LostProcessError(
            f"{_name([0], world)} did not come to {host}:{port} within {timeout_seconds:g} s "
            f"({error}); look at its own output"
        ) from None
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise FailureError(f"the processes could not meet: {reason}") from error
    return PrefixStore(attempt, store)


def _main_address() -> tuple[str, int]:
    """Where rank 0 keeps the store, as torchrun says it."""
    try:
        return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    except KeyError as error:
        raise InputError(f"{error.args[0]} is not set; start with --gpus or torchrun") from None
    except ValueError as error:
        raise InputError(f"MASTER_PORT: {error}; start with --gpus or torchrun") from None


def wait_for_listener(host: str, port: int, *, seconds: float) -> None:
    """Wait until something listens there; torch waits too, but ends with a stack of its C++.

    Raises:
        TimeoutError: nothing did in that time.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            left = max(0.1, deadline - time.monotonic())
            socket.create_connection((host, port), timeout=left).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                reason = error.strerror or str(error)
                raise TimeoutError(f"nobody listens there: {reason}") from None
        time.sleep(0.1)


def _is_of_a_collective(error: RuntimeError) -> bool:
    # gloo raises plain RuntimeErrors, most of which begin with the place in its source.
    return isinstance(error, dist.DistError) or _GLOO_ERROR.search(str(error)) is not None


def _name(ranks: list[int], world: World) -> str:
    shown = ", ".join(str(rank) for rank in ranks[:8]) + (" ..." if len(ranks) > 8 else "")
    return f"rank{'s' if len(ranks) > 1 else ''} {shown} of {world.size}"
