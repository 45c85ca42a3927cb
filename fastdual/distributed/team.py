"""The processes of a run: how they meet, and what they agree on.

For a single process every method of a Team is trivial, and torch.distributed is not used. Several
processes meet at a store. After that one group carries tensors (NCCL or gloo), and a second one,
over gloo, carries what is agreed on the host. Processes that do not answer in time are named.
"""

import re
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist
from torch._C._distributed_c10d import Store

from fastdual.distributed.meeting import LostProcessError, open_store, roll_call, within
from fastdual.distributed.world import World
from fastdual.errors import FailureError, InputError

_T = TypeVar("_T")

# NCCL aborts the process, so its timeout is longer: the host, which names the culprit, is first.
_NCCL_EXTRA_SECONDS = 60.0
_GLOO_ERROR = re.compile("gloo|pair closure|timed out|connection (closed|reset)", re.IGNORECASE)
# All that still run hear of a failure within moments of each other; machines may be busy.
_ROLL_CALL_SECONDS = 10.0
_LEAVE_SECONDS = 1.0
_GO_ON = "continue from the last checkpoint with --resume"
_TIMED_OUT = re.compile("timed out|timeout", re.IGNORECASE)


class Team:
    """The processes of a run, once they have met.

    Args:
        world: The place of this process.
        store: Shared by all processes; None: there is only this one.
        timeout_seconds: Processes that have not answered for this long are given up.
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
        """Connect all processes, with NCCL for tensors on a GPU and gloo otherwise.

        Raises:
            LostProcessError: Some did not come in time.
        """
        assert self._store is not None
        seconds = self._timeout.total_seconds()
        try:
            missing = roll_call(self._store, self.world, "join", seconds=seconds)
            if not missing:
                # Longer than its parts have: one that runs out names its reason.
                longest = 1.5 * seconds + _NCCL_EXTRA_SECONDS * (device.type == "cuda")
                self._group = within(longest, lambda: self._create_groups(device))
                return
            what, look = "did not come", "look at its own output"
        except TimeoutError:
            missing, what, look = [0], "does not answer", _GO_ON
        raise LostProcessError(
            f"{self.world.name(missing)} {what} within {seconds:g} s; {look}", missing, silent=True
        )

    def _create_groups(self, device: torch.device) -> dist.ProcessGroup:
        """Create the group of tensors, the default one; return that of the host."""
        on_gpu = device.type == "cuda"
        if on_gpu:
            torch.cuda.set_device(device)  # of this thread
        dist.init_process_group(
            "nccl" if on_gpu else "gloo",
            store=self._store,
            rank=self.world.rank,
            world_size=self.world.size,
            timeout=self._timeout + timedelta(seconds=_NCCL_EXTRA_SECONDS * on_gpu),
            device_id=device if on_gpu else None,
        )
        group: dist.ProcessGroup = dist.new_group(backend="gloo", timeout=self._timeout)
        return group

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors, in place, by their means over processes, in one message per dtype."""
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
        """Wait on the host until all processes have reached this call."""
        if self._group is not None:
            dist.barrier(self._group)

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the means over processes of numbers that all of them hold, on the host."""
        if self._group is None:
            return dict(values)
        numbers = torch.tensor(list(values.values()), dtype=torch.float64, device="cpu")
        dist.all_reduce(numbers, group=self._group)
        return dict(zip(values, (numbers / self.world.size).tolist(), strict=True))

    def from_main(self, function: Callable[[], _T]) -> _T:
        """Call a function on rank 0; return its result on all ranks.

        Raises:
            InputError: The function raised it on rank 0.
            FailureError: The function raised it on rank 0.
        """
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

    def gather(self, value: _T) -> list[_T]:
        """Return a plain value of every process, in order of rank, on the host."""
        if self._group is None:
            return [value]
        gathered: list[Any] = [None] * self.world.size
        dist.all_gather_object(gathered, value, group=self._group)
        return gathered

    def check_equal(self, sections: Mapping[str, Mapping[str, Any]]) -> None:
        """Raise an InputError unless all processes hold the same plain values, by section."""
        if self._group is None:
            return
        mine = {f"{name}.{key}": v for name, part in sections.items() for key, v in part.items()}
        first, *others = self.gather(mine)
        for rank, theirs in enumerate(others, start=1):
            for key, ours in first.items():
                if theirs.get(key) != ours:
                    raise InputError(
                        f"{key} is {theirs.get(key)!r} on rank {rank} and {ours!r} on rank 0: give "
                        "every process the same DATA, options and versions, on a file system that "
                        "all machines share"
                    )

    def agree(self, number: int) -> int:
        """Return the largest number that any process gave at the last call; 0 at the first.

        No process waits: the answer to a call arrives by the next one, a step later.
        """
        if self._group is None:
            return number
        before, self._asked = self._asked, None
        mine = torch.tensor([number], device="cpu")
        work = dist.all_reduce(mine, dist.ReduceOp.MAX, group=self._group, async_op=True)
        assert work is not None
        self._asked = (work, mine)
        if before is None:
            return 0
        before[0].wait()
        return int(before[1])

    def close(self) -> None:
        """Wait for the answer to the last `agree`, so that no process misses it."""
        if self._asked is not None:
            self._asked[0].wait()
            self._asked = None

    def who_is_lost(self, error: RuntimeError) -> LostProcessError:
        """Return an error that names the processes missing from a failed collective."""
        assert self._store is not None
        reason = str(error).strip().splitlines()[-1]
        silent = _TIMED_OUT.search(str(error)) is not None
        waited = self._timeout.total_seconds()
        try:
            # Who waited in vain must be done within twice the time.
            seconds = min(_ROLL_CALL_SECONDS, waited / 3) if silent else _ROLL_CALL_SECONDS
            missing = roll_call(self._store, self.world, "failed", seconds=seconds)
        except (RuntimeError, OSError) as failed:  # of the store; a TimeoutError is an OSError
            silent = isinstance(failed, TimeoutError)
            what = f"does not answer within {waited:g} s" if silent else "is gone"
            return LostProcessError(
                f"{self.world.name([0])}, which keeps what all processes share, {what}; {_GO_ON}",
                [0],
                silent=silent,
            )
        if len(missing) > 1 and missing[0] == 0:
            missing = missing[1:]  # its store answers: it may not have noticed anything yet
        if not missing:
            return LostProcessError(f"the connection between the processes broke: {reason}")
        return LostProcessError(
            f"{self.world.name(missing)} ended or did not answer within {waited:g} s; {_GO_ON}",
            missing,
            silent=silent,
        )


@contextmanager
def joined(world: World, *, device: torch.device, timeout_seconds: float) -> Iterator[Team]:
    """Meet the other processes, and leave them at the end of the block.

    Args:
        world: The place of this process.
        device: Of the tensors; decides between NCCL and gloo.
        timeout_seconds: Processes that have not answered for this long are given up.

    Raises:
        LostProcessError: Some processes did not come, or stopped answering later.
    """
    if world.size == 1:
        yield Team(world, None, timeout_seconds)
        return
    store = open_store(world, timeout_seconds)
    team = Team(world, store, timeout_seconds)
    try:
        team.connect(device)
        yield team
        team.close()
    except RuntimeError as error:
        if isinstance(error, FailureError) or not _is_of_a_collective(error):
            raise
        # A launcher that has lost the other machine too sends SIGTERM, before this is reported.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise team.who_is_lost(error) from error
    finally:
        if dist.is_initialized():
            with suppress(TimeoutError):  # it waits for what was asked of processes that are lost
                within(_LEAVE_SECONDS, dist.destroy_process_group)


def _is_of_a_collective(error: RuntimeError) -> bool:
    # gloo raises plain RuntimeErrors, most of which begin with the place in its source.
    return isinstance(error, dist.DistError) or _GLOO_ERROR.search(str(error)) is not None
