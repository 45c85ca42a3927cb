"""A place to meet where something listens that is no run: told in time, whatever it answers."""

import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any

import pytest
from torch.distributed import HashStore, Store

from fastdual.distributed.meeting import roll_call
from fastdual.distributed.world import World
from tests.conftest import PROJECT


class _Slow:
    """A store for a process that gets little of a busy machine: each question takes it long."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def set(self, key: str, value: str) -> None:
        self._store.set(key, value)

    def get(self, key: str) -> bytes:
        return self._store.get(key)

    def check(self, keys: list[str]) -> bool:
        time.sleep(0.15)
        return self._store.check(keys)


@pytest.mark.parametrize("size", [2, 3])
def test_the_keeper_of_the_store_leaves_when_all_who_came_know_who_did_not(size: int) -> None:
    store, ended = HashStore(), dict[int, float]()
    found: dict[int, list[int]] = {}

    def call(rank: int, of: Any) -> None:
        found[rank] = roll_call(of, World(rank, size, rank, size), "failed", seconds=3.0)
        ended[rank] = time.monotonic()

    # Where all came, the keeper knows it at once; where one is lost, all wait as long.
    slow = threading.Thread(target=call, args=(1, _Slow(store)))
    slow.start()
    call(0, store)
    slow.join()
    assert found[0] == found[1] == [2][: size - 2]
    assert ended[0] >= ended[1] - 0.08  # it looks every 0.05 s


def test_who_noticed_first_takes_the_verdict_of_the_keeper() -> None:
    """It has more time, and would find the store gone when the keeper has ended."""
    store, found = HashStore(), dict[int, list[int]]()

    def call(rank: int, seconds: float) -> None:
        found[rank] = roll_call(store, World(rank, 3, rank, 3), "failed", seconds=seconds)

    early = threading.Thread(target=call, args=(1, 60.0))
    early.start()
    began = time.monotonic()
    call(0, 1.0)
    assert time.monotonic() - began < 1.9  # it did not wait in vain for the other to leave
    early.join(5)
    assert found == {0: [2], 1: [2]}


# In a process of its own: a call that is given up stays in its thread until the process ends.
_CODE = """
import sys
from fastdual.distributed.ending import end_process
from fastdual.distributed.meeting import open_store, wait_for_store
from fastdual.distributed.world import World
from fastdual.errors import FailureError
port = int(sys.argv[1])
try:
    wait_for_store("127.0.0.1", port, seconds=2)
except TimeoutError as error:
    print(error)
try:
    open_store(World(1, 2, 1, 2, address=("127.0.0.1", port)), 2)
except FailureError as error:
    print(error)
end_process()
"""


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["none", "http"])
def test_a_listener_that_is_no_store_is_given_up(answer: bytes) -> None:
    kept = []
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:  # closed: the test is over
                    return
                kept.append(connection)
                with suppress(OSError):  # wait_for_listener has left already
                    if answer:
                        connection.sendall(answer)
                        connection.shutdown(socket.SHUT_WR)

        threading.Thread(target=serve, daemon=True).start()
        command = [sys.executable, "-c", _CODE, str(server.getsockname()[1])]
        began = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=PROJECT)
    assert done.returncode == 0, done.stderr
    assert "frame #" not in done.stdout
    first, second = done.stdout.splitlines()
    assert first.startswith("what listens there")
    assert second.startswith(("rank 0 of 2 did not come to 127.0.0.1:", "the processes could not"))
    assert time.monotonic() - began < 90
