"""kill -9 of any process of a run of two, at random moments; the end is that of a quiet run.

FASTDUAL_KILL_POINTS sets how many kills one run has to live through (2 unless set), and
FASTDUAL_KILL_SEED where and when they fall.
"""

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from fastdual.run.checkpoint import find_checkpoint, load_checkpoint
from tests.loaders.processes import children
from tests.runs import arguments, differences, read_log, start, write_index

NUM_KILLS = int(os.environ.get("FASTDUAL_KILL_POINTS", "2"))
SEED = int(os.environ.get("FASTDUAL_KILL_SEED", "5"))
NUM_VIDEOS, BATCH = 8, 2
EPOCHS = 4 + 2 * NUM_KILLS  # so many that no kill comes after the end
COMPARED = ("step", "model", "objective", "optimiser", "order", "rng", "config", "data", "versions")
SETTINGS: dict[str, Any] = {
    "data__batch_size": BATCH,
    "schedule__epochs": EPOCHS,
    "schedule__milestones": "[2]",
    "run__checkpoint_every_steps": 3,
    "run__timeout_seconds": 60,
}


def family(root: int) -> dict[int, str]:
    """A process and all that descend from it, by number, with what they are."""
    try:
        words = Path(f"/proc/{root}/environ").read_bytes().split(b"\0")
    except OSError:
        return {}  # it has just ended
    values = dict(word.split(b"=", 1) for word in words if b"=" in word)
    role = f"below rank {values[b'RANK'].decode()}" if b"RANK" in values else "launcher"
    found = {root: role}
    for child in children(root):
        found |= family(child)
    return found


def wait_until_gone(processes: dict[int, str]) -> None:
    """A run whose launcher was killed ends by itself: its ranks save, its workers follow."""
    deadline = time.monotonic() + 90
    while any(Path(f"/proc/{process}").exists() for process in processes):
        assert time.monotonic() < deadline, "a process outlived its launcher"
        time.sleep(0.05)


class Attacked:
    """A run of two processes that is started again whenever all of it was killed."""

    def __init__(self, args: list[str], run: Path) -> None:
        self._args, self._run = [*args, "--resume"], run
        self.process = start(self._args)

    def wait(self, *, steps: int, seconds: float) -> None:
        """Wait for so many more logged steps, then for so many seconds more."""
        wanted, deadline = self._num_steps() + steps, time.monotonic() + 400
        while self._num_steps() < wanted:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, "no step for minutes"
            time.sleep(0.005)
        time.sleep(seconds)

    def _num_steps(self) -> int:
        # A restart drops what was logged after the checkpoint, so the number can fall.
        return len(read_log(self._run, "train"))

    def kill(self, choose: random.Random) -> str:
        """Kill one of its processes; returns which."""
        processes = family(self.process.pid)
        victim = choose.choice(sorted(processes))
        os.kill(victim, signal.SIGKILL)
        if victim == self.process.pid:
            self.process.communicate(timeout=120)
            wait_until_gone(processes)
            self.process = start(self._args)
        return processes[victim]


def test_a_run_killed_at_random_moments_ends_as_one_that_never_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = write_index(tmp_path, count=NUM_VIDEOS)
    undisturbed, run = tmp_path / "undisturbed", tmp_path / "run"
    options = ("--gpus", "2", "--device", "cpu", "--max-restarts", str(NUM_KILLS))
    quiet = start(arguments(index, undisturbed, *options, **SETTINGS))
    assert (quiet.communicate(timeout=300), quiet.returncode)[1] == 0

    choose, victims = random.Random(SEED), []
    attacked = Attacked(arguments(index, run, *options, **SETTINGS), run)
    for _ in range(NUM_KILLS):
        if choose.random() < 0.3:  # while it starts
            attacked.wait(steps=0, seconds=choose.uniform(0.0, 6.0))
        else:  # within a step, a reading or a checkpoint
            attacked.wait(steps=choose.randint(1, 5), seconds=choose.uniform(0.0, 0.3))
        victims.append(attacked.kill(choose))
    stdout, stderr = attacked.process.communicate(timeout=300)
    with capsys.disabled():
        print(f"killed: {', '.join(victims)}", end=" ")
    assert attacked.process.returncode == 0, stderr
    assert "Traceback" not in stderr

    ours, theirs = (load_checkpoint(find_checkpoint(path)) for path in (run, undisturbed))
    assert theirs["step"] == EPOCHS * NUM_VIDEOS // BATCH
    pairs = [{key: state[key] for key in COMPARED} for state in (ours, theirs)]
    assert differences(*pairs) == []
    # Equal to the last bit at every step: the same clips of the same videos, in the same order.
    losses = [[(e["step"], e["loss"]) for e in read_log(r, "train")] for r in (run, undisturbed)]
    assert losses[0] == losses[1]
