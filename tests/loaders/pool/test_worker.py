"""A worker process: silent, small, and gone with its parent."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastdual.errors import FailureError
from fastdual.loaders.pool import ProcessPool
from tests.loaders.processes import alive, anonymous_mib, wait_until_dead, worker_pids

RUN = "tests.loaders.pool.tasks:run"


def test_a_worker_gives_free_memory_back_to_the_system() -> None:
    """Small blocks between ones that stay: free, but in the heap until it is trimmed."""
    with ProcessPool(RUN, num_workers=1, timeout_seconds=60) as pool:
        pool.result(pool.submit(("square", 1)))
        (pid,) = worker_pids()
        assert pool.result(pool.submit(("gaps", 64))) > 64  # freed, and still held
        for _ in pool.imap([("square", number) for number in range(300)], window=4):
            pass
        assert anonymous_mib(pid) < 40


def test_workers_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys; from fastdual.loaders.pool import ProcessPool\n"
        "from tests.loaders.processes import worker_pids\n"
        f"pool = ProcessPool({RUN!r}, num_workers=2, timeout_seconds=600)\n"
        "tickets = [pool.submit(('square', 1)) for _ in range(4)]\n"
        "[pool.result(ticket) for ticket in tickets]\n"
        "[pool.submit(('sleep', 600)) for _ in range(2)]\n"
        "print(*worker_pids(), flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)},
    )
    assert parent.stdout is not None and parent.stdin is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert pids and all(alive(pid) for pid in pids)
    parent.kill()
    parent.wait()
    wait_until_dead(pids)
    parent.stdin.close()
    parent.stdout.close()


def test_a_function_that_cannot_be_imported_is_one_clear_error() -> None:
    with (
        ProcessPool("fastdual.no_such_module:f", num_workers=2, timeout_seconds=5) as pool,
        pytest.raises(FailureError, match="could not import fastdual.no_such_module:f"),
    ):
        pool.result(pool.submit(1))


def test_what_decoders_print_does_not_reach_the_terminal(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with ProcessPool(RUN, num_workers=1, timeout_seconds=20) as pool:
        assert pool.result(pool.submit(("noise", 1))) == 1
    captured = capfd.readouterr()
    assert captured.err == "" and captured.out == ""
