"""How processes meet at a store, and how those who are lost are named; nothing waits for ever.

The store lives in rank 0. A call of torch's store ends when that process ends, but not while it is
stopped or frozen: the kernel keeps its connections open. So every such call has a deadline here.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import timedelta
from typing import TypeVar

from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from fastdual.distributed.ending import note_meeting
from fastdual.distributed.world import World
from fastdual.errors import FailureError, InputError, first_line

_T = TypeVar("_T")

_POLL_SECONDS = 0.05
# The store itself has this long to answer, beyond what its callers wait for: machines may be busy.
_STORE_ANSWERS_SECONDS = 1.0


class LostProcessError(FailureError):
    """Some processes stopped answering; they report their own reason if they can.

    Args:
        text: One line for people.
        ranks: Who is lost, as far as it is known.
        silent: They are given up because they do not answer; they may still exist. Otherwise their
            connection is gone, as it is when a process ends.
    """

    def __init__(self, text: str, ranks: Sequence[int] = (), *, silent: bool = False) -> None:
        super().__init__(text)
        self.ranks, self.silent = tuple(ranks), silent


def within(seconds: float, function: Callable[[], _T]) -> _T:
    """Return what a function returns, or give it up; it may then hang in its thread for ever.

    Raises:
        TimeoutError: It did not return in that time.
        Exception: What the function raised.
    """
    note_meeting()
    outcome: Future[_T] = Future()

    def call() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=call, name="fastdual-meeting", daemon=True).start()
    return outcome.result(timeout=seconds)


def roll_call(store: Store, world: World, occasion: str, *, seconds: float) -> list[int]:
    """Announce this rank, wait for the others, and return those that stayed silent.

    The store ends with rank 0. So that rank stays, as long again at most, until those who came have
    its answer: they would name it as lost otherwise.

    Args:
        store: Of all processes.
        world: The place of this one.
        occasion: A word that is called once only.
        seconds: How long the others have.

    Raises:
        TimeoutError: The store does not answer.
        RuntimeError: The store is gone.
    """
    whole = seconds * (1 + world.is_main) + _STORE_ANSWERS_SECONDS
    return within(whole, lambda: _call_roll(store, world, occasion, seconds))


def _call_roll(store: Store, world: World, occasion: str, seconds: float) -> list[int]:
    store.set(f"{occasion}/here/{world.rank}", "")
    verdict = f"{occasion}/verdict"
    missing = _silent(store, f"{occasion}/here", range(world.size), seconds, verdict)
    if world.is_main:
        store.set(verdict, " ".join(map(str, missing)))
    elif store.check([verdict]):
        missing = [int(rank) for rank in store.get(verdict).split()]
    store.set(f"{occasion}/left/{world.rank}", "")
    if world.is_main:
        present = [rank for rank in range(world.size) if rank not in missing]
        _silent(store, f"{occasion}/left", present, seconds)
    return missing


def _silent(
    store: Store, word: str, ranks: Sequence[int], seconds: float, verdict: str | None = None
) -> list[int]:
    """Wait until all of some ranks have said a word, and return those that have not in time.

    Whoever began later than rank 0 does not wait beyond its verdict.
    """
    keys = {f"{word}/{rank}": rank for rank in ranks}
    deadline = time.monotonic() + seconds
    while not store.check(list(keys)):
        is_told = verdict is not None and store.check([verdict])
        if is_told or time.monotonic() > deadline:
            return [rank for key, rank in keys.items() if not store.check([key])]
        time.sleep(_POLL_SECONDS)
    return []


def open_store(world: World, timeout_seconds: float) -> Store:
    """Return the store of all processes; rank 0 keeps it, unless torchrun does.

    Raises:
        InputError: The environment does not say where rank 0 is.
        LostProcessError: Rank 0 did not come in time.
        FailureError: The processes cannot meet there.
    """
    host, port = world.address or _main_address()
    # torchrun keeps one store over restarts: keys of earlier attempts must not be seen.
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if shared else ""
    keeps = world.is_main and not shared
    timeout = timedelta(seconds=timeout_seconds)

    def connect() -> Store:
        return TCPStore(host, port, world.size, keeps, timeout, wait_for_workers=False)

    try:
        if not keeps:
            wait_for_listener(host, port, seconds=timeout_seconds)
        store = within(timeout_seconds, connect)
    except TimeoutError as error:
        raise LostProcessError(
            f"{world.name([0])} did not come to {host}:{port} within {timeout_seconds:g} s "
            f"({str(error) or 'what listens there does not answer'}); look at its own output",
            [0],
            silent=True,
        ) from None
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise FailureError(f"the processes could not meet: {reason}") from error
    return PrefixStore(attempt, store)


def _main_address() -> tuple[str, int]:
    """Return where rank 0 keeps the store, as torchrun says it."""
    try:
        return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    except KeyError as error:
        raise InputError(f"{error.args[0]} is not set; start with --gpus or torchrun") from None
    except ValueError as error:
        raise InputError(f"MASTER_PORT: {error}; start with --gpus or torchrun") from None


def wait_for_store(host: str, port: int, *, seconds: float) -> None:
    """Wait until a store of torch answers at an address; elastic's own wait for it has no end.

    Raises:
        TimeoutError: None did in that time; says why.
    """
    began = time.monotonic()
    wait_for_listener(host, port, seconds=seconds)
    left = max(1.0, began + seconds - time.monotonic())
    limit = timedelta(seconds=left)

    def connect() -> None:
        TCPStore(host, port, None, False, limit, wait_for_workers=False)

    try:
        within(left, connect)
    except TimeoutError:
        raise TimeoutError("what listens there does not answer") from None
    except (RuntimeError, ValueError) as error:
        raise TimeoutError(f"what listens there is no run: {first_line(error)}") from None


def wait_for_listener(host: str, port: int, *, seconds: float) -> None:
    """Wait until something listens at an address; torch's own wait ends in a stack of its C++.

    Raises:
        TimeoutError: Nothing did in that time.
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
