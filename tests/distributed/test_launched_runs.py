"""Runs of several processes that are stopped, killed or left alone, and then resumed."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fastdual.loaders.loader import ClipBatch
from fastdual.loaders.order import EpochOrder
from fastdual.run.checkpoint import find_checkpoint, load_checkpoint
from fastdual.training.loop import StepOutput, Training, take_step
from tests.distributed.processes import SETTINGS, TWO, is_gone, one_error, ranks_of
from tests.runs import (
    arguments,
    differences,
    invoke,
    read_log,
    start,
    wait_for_steps,
    write_index,
)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_index(tmp_path_factory.mktemp("data"), count=8)


def test_sigterm_on_any_rank_stops_all_with_one_checkpoint_and_one_process_goes_on(
    index: Path, tmp_path: Path
) -> None:
    """With all that a process keeps a share of: the queue's keys, and a batch in chunks."""
    run = tmp_path / "run"
    moco = {"model__framework": "moco", "moco__queue_size": 7, "optimiser__accumulate_chunks": 2}
    process = start(arguments(index, run, *TWO, "--max-restarts", "3", **SETTINGS, **moco))
    wait_for_steps(process, run, 5)
    ranks = ranks_of(process.pid)
    assert sorted(ranks) == [0, 1]
    os.kill(ranks[1], signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 143, stderr
    assert "Traceback" not in stderr
    assert "continue with  fastdual pretrain" in stdout
    assert all(is_gone(child) for child in ranks.values())
    stopped = load_checkpoint(find_checkpoint(run))
    assert read_log(run, "end")[-1] | {"time": 0} == {
        "event": "end", "step": stopped["step"], "time": 0, "complete": False, "signal": 15,
    }  # fmt: skip
    order = stopped["order"]
    assert 2 * order["epoch"] + order["step"] == stopped["step"] >= 5

    # On another number of processes: from the same step, over the very same order.
    result = invoke(["pretrain", str(index), "--run", str(run), "--resume"])
    assert result.exit_code == 0, result.output
    steps = [event["step"] for event in read_log(run, "train")]
    assert steps == list(range(1, 41))
    end = load_checkpoint(find_checkpoint(run))
    assert end["order"] == order | {"epoch": 20, "step": 0}
    for state, step in ((stopped, stopped["step"]), (end, 40)):
        assert int(state["objective"]["clip_queue.position"]) == 4 * step % 7


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_the_launcher_saves_and_ends_all(
    number: signal.Signals, index: Path, tmp_path: Path
) -> None:
    """SIGUSR1 is what a cluster sends before the time limit."""
    run = tmp_path / "run"
    process = start(arguments(index, run, *TWO, **SETTINGS))
    wait_for_steps(process, run, 3)
    ranks = ranks_of(process.pid)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 128 + number, stderr
    assert "Traceback" not in stderr
    assert "stopped     by a signal" in stdout
    assert "torch/distributed" not in stderr  # what elastic tells its own log
    assert all(is_gone(child) for child in ranks.values())
    assert load_checkpoint(find_checkpoint(run))["step"] == read_log(run, "train")[-1]["step"]


def test_a_killed_process_without_restarts_is_named(index: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(arguments(index, run, *TWO, **SETTINGS))
    wait_for_steps(process, run, 2)
    ranks = ranks_of(process.pid)
    os.kill(ranks[1], signal.SIGKILL)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "rank 1 was ended by SIGKILL" in one_error(stderr)
    assert all(is_gone(child) for child in ranks.values())


def test_a_launcher_that_is_killed_takes_its_processes_and_its_folder_along(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, temporary = tmp_path / "run", tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    process = start(arguments(index, run, *TWO, **SETTINGS))
    wait_for_steps(process, run, 2)
    ranks = ranks_of(process.pid)
    process.kill()
    process.communicate(timeout=120)
    deadline = time.monotonic() + 60
    while not all(is_gone(child) for child in ranks.values()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert all(is_gone(child) for child in ranks.values())
    assert read_log(run, "end")[-1]["signal"] == signal.SIGTERM
    assert not list(temporary.glob("fastdual-launch-*"))


def test_two_processes_resume_to_the_same_weights_and_one_takes_their_checkpoint(
    index: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    settings = {**SETTINGS, "schedule__epochs": 4, "optimiser__name": "adamw"}
    process = start(arguments(index, run, *TWO, **settings))
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    last = find_checkpoint(run)
    end = load_checkpoint(last)
    assert end["step"] == 8
    last.unlink()
    go_on = ["pretrain", str(index), "--run", str(run), "--resume"]
    process = start([*go_on, *TWO])
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert differences(end, load_checkpoint(last)) == []
    last.unlink()
    assert invoke(go_on).exit_code == 0
    assert load_checkpoint(last)["step"] == 8


@pytest.mark.parametrize("victim", [0, 1])
def test_a_machine_that_leaves_is_told_and_the_rest_go_on(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: int
) -> None:
    """Machine 0 keeps the meeting point, so that the other one has to find its absence out."""
    run = tmp_path / "run"
    settings = {**SETTINGS, "schedule__epochs": 10}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    meeting = ("--gpus", "1", "--device", "cpu", "--nnodes", "2")
    meeting += ("--rdzv-endpoint", f"127.0.0.1:{port}")
    machines = [
        start(arguments(index, run, *meeting, "--node-rank", str(node), **settings))
        for node in (0, 1)
    ]
    wait_for_steps(machines[0], run, 6)
    # As when its power fails: the launcher and all that it started, at once.
    for process in (machines[victim].pid, *ranks_of(machines[victim].pid).values()):
        os.kill(process, signal.SIGKILL)
    machines[victim].communicate(timeout=60)
    began = time.monotonic()
    left = machines[1 - victim]
    _, stderr = left.communicate(timeout=120)
    assert time.monotonic() - began < 60
    assert left.returncode == 1, stderr
    assert re.search(r"rank [01] of 2.* continue from the last checkpoint", one_error(stderr))
    step = load_checkpoint(find_checkpoint(run))["step"]
    assert step % 4 == 0

    # On one process, over the very videos that the two would have taken.
    taken = []

    def note(training: Training, batch: ClipBatch) -> StepOutput:
        taken.append(batch.video_ids.tolist())
        return take_step(training, batch)

    monkeypatch.setattr("fastdual.training.loop.take_step", note)
    result = invoke(["pretrain", str(index), "--run", str(run), "--resume"])
    assert result.exit_code == 0, result.output
    order = EpochOrder(8, global_batch_size=4, seed=0)
    steps = [order.batch(epoch, part) for epoch in range(10) for part in range(2)]
    assert taken == [videos.tolist() for videos in steps[step:]]
    assert load_checkpoint(find_checkpoint(run))["step"] == 20


def test_torchrun_and_srun_worlds_are_joined(index: Path, tmp_path: Path) -> None:
    """As the launchers would start them: the variables of torchrun, and those of srun."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    torchrun = [
        {"RANK": rank, "WORLD_SIZE": "2", "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": "2",
         "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for rank in "01"
    ]  # fmt: skip
    srun = [
        {"SLURM_PROCID": rank, "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": rank,
         "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_STEP_NODELIST": "localhost",
         "SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0"}
        for rank in "01"
    ]  # fmt: skip
    ends = []
    for name, worlds in (("torchrun", torchrun), ("srun", srun)):
        run = tmp_path / name
        args = arguments(index, run, **{**SETTINGS, "schedule__epochs": 1})
        command = [sys.executable, "-m", "fastdual", *args]
        processes = [
            subprocess.Popen(
                command, env={**os.environ, **world, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for world in worlds
        ]  # fmt: skip
        outputs = [process.communicate(timeout=120) for process in processes]
        assert [process.returncode for process in processes] == [0, 0], outputs
        assert "processes 2 (2 on this machine) over gloo, 2 videos each" in outputs[0][1]
        assert outputs[1] == ("", "")
        ends.append(load_checkpoint(find_checkpoint(run))["model"])
    assert differences(*ends) == []


def test_torchrun_starts_a_killed_process_anew(index: Path, tmp_path: Path) -> None:
    """The weights at the end are those of a run that nobody disturbed."""
    quiet, run = tmp_path / "quiet", tmp_path / "run"
    settings = {**SETTINGS, "schedule__epochs": 8}
    _, stderr = start(arguments(index, quiet, *TWO, **settings)).communicate(timeout=120)
    torchrun = ["torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "2", "-m", "--"]
    ours = arguments(index, run, "--device", "cpu", "--resume", **settings)
    process = subprocess.Popen(
        [sys.executable, "-m", *torchrun, "fastdual", *ours],
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for_steps(process, run, 6)
    os.kill(ranks_of(process.pid)[1], signal.SIGKILL)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert len(read_log(run, "start")) == 2
    ends = [load_checkpoint(find_checkpoint(folder)) for folder in (quiet, run)]
    assert differences(*ends) == []
