"""Processes that are stopped, as a frozen machine stops them: nobody waits for ever."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fastdual.distributed.watch import Watch, has_ended
from tests.distributed.processes import SETTINGS, TWO, is_gone, one_error, ranks_of
from tests.runs import arguments, start, wait_for_steps, write_index

TIMEOUT = 8
# Twice the timeout, measured on an idle machine; tests share theirs with others.
IN_TIME = 2 * TIMEOUT + 20


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_index(tmp_path_factory.mktemp("data"), count=6)


def begin(index: Path, run: Path) -> "tuple[subprocess.Popen[str], dict[int, int]]":
    """A launched run of two processes, some steps after its start."""
    settings = {**SETTINGS, "schedule__epochs": 2000, "run__timeout_seconds": TIMEOUT}
    process = start(arguments(index, run, *TWO, **settings))
    wait_for_steps(process, run, 3)
    return process, ranks_of(process.pid)


def is_dead(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True  # gone


def end_all(process: Any, ranks: dict[int, int]) -> None:
    for child in (*ranks.values(), process.pid):
        if not is_gone(child):
            os.kill(child, signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("stopped", [(0,), (0, 1)], ids=str)
def test_stopped_ranks_end_the_run_in_time_and_are_named(
    index: Path, tmp_path: Path, stopped: tuple[int, ...]
) -> None:
    """Rank 0 keeps the store that the others ask who is lost; with both stopped nobody reports."""
    process, ranks = begin(index, tmp_path / "run")
    began = time.monotonic()
    for rank in stopped:
        os.kill(ranks[rank], signal.SIGSTOP)
    try:
        _, stderr = process.communicate(timeout=100)
        assert process.returncode == 1, stderr
        assert time.monotonic() - began < IN_TIME
        error = one_error(stderr)
        assert f"rank{'s 0, 1' if len(stopped) == 2 else ' 0'} had been stopped" in error
        assert "SIGKILL" not in error  # our own kill is not the cause, nor is memory
        assert "memory" not in error
        assert "--resume" in error
        assert all(is_gone(child) for child in ranks.values())
    finally:
        end_all(process, ranks)


def test_with_its_launcher_stopped_as_well_a_rank_still_ends(index: Path, tmp_path: Path) -> None:
    process, ranks = begin(index, tmp_path / "run")
    began = time.monotonic()
    for victim in (process.pid, ranks[0]):
        os.kill(victim, signal.SIGSTOP)
    try:
        while not is_dead(ranks[1]) and time.monotonic() - began < IN_TIME:
            time.sleep(0.1)
        assert time.monotonic() - began < IN_TIME
        os.kill(process.pid, signal.SIGCONT)
        _, stderr = process.communicate(timeout=100)
        assert "rank 0 had been stopped" in one_error(stderr)
    finally:
        end_all(process, ranks)


def test_a_launcher_that_hangs_is_ended_when_all_its_processes_have(tmp_path: Path) -> None:
    """As elastic does while the machine that keeps the meeting point is frozen."""
    children = [subprocess.Popen([sys.executable, "-c", "pass"]) for _ in range(2)]
    for rank, child in enumerate(children):
        (tmp_path / f"process-{rank}.json").write_text(f'{{"pid": {child.pid}}}')
    given_up = threading.Event()
    with Watch(tmp_path, timeout_seconds=1, max_restarts=0, give_up=given_up.set) as watch:
        assert given_up.wait(30)
    assert watch.stopped == set()
    assert all(has_ended(child.pid) for child in children)
    assert [child.wait() for child in children] == [0, 0]  # not reaped by the look at them
    assert all(has_ended(child.pid) for child in children)


def test_a_rank_that_waits_for_a_stopped_worker_is_seen(tmp_path: Path) -> None:
    """The others hear nothing of the rank; the cause is the worker."""
    code = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; "
    code += "time.sleep(99)']); print('ready', flush=True); time.sleep(99)"
    rank = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert rank.stdout is not None and rank.stdout.readline() == b"ready\n"
    (worker,) = Path(f"/proc/{rank.pid}/task/{rank.pid}/children").read_text().split()
    os.kill(int(worker), signal.SIGSTOP)
    (tmp_path / "process-0.json").write_text(f'{{"pid": {rank.pid}}}')
    lost = {"message": "rank 0 is silent", "code": 1, "time": 1.0, "lost": [0], "silent": True}
    (tmp_path / "error-1.json").write_text(json.dumps(lost))
    with Watch(tmp_path, timeout_seconds=60, max_restarts=0, give_up=lambda: None) as watch:
        assert rank.wait(timeout=30) == -signal.SIGKILL
    assert watch.stopped == {0}
    os.kill(int(worker), signal.SIGKILL)
