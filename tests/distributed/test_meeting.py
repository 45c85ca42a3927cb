"""A place to meet where something listens that is no run: told in time, whatever it answers."""

import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest

from tests.conftest import PROJECT

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
