"""A run that was stopped or killed goes on to the very weights of one that never was.

Real processes, real signals, real videos; states are compared bit for bit.
"""

import fcntl
import os
import re
import select
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from fastdual.run.checkpoint import find_checkpoint, list_checkpoints, load_checkpoint
from tests.runs import (
    arguments,
    differences,
    invoke,
    read_log,
    start,
    wait_for_steps,
    write_index,
)

NUM_VIDEOS, BATCH = 24, 2
STEPS = 2 * NUM_VIDEOS // BATCH
SETTINGS: dict[str, Any] = {
    "data__batch_size": BATCH,
    "schedule__epochs": 2,
    "schedule__milestones": "[1]",
    "schedule__warmup_epochs": 0.5,
    "run__checkpoint_every_steps": 4,
    "run__keep_checkpoints": 2,
}
COMPARED = ("step", "model", "objective", "optimiser", "order", "rng", "config", "data", "versions")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_index(tmp_path_factory.mktemp("data"), count=NUM_VIDEOS)


@pytest.fixture(scope="module")
def undisturbed(index: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    result = invoke(arguments(index, run, **SETTINGS))
    assert result.exit_code == 0, result.output
    # After 20 steps, and once.
    assert result.stderr.count(" per epoch, ") == 1
    assert "by steps 5 to 20" in result.stderr
    return run


def signal_after(args: list[str], run: Path, *, steps: int, number: int) -> tuple[int, str]:
    """Start a run, send it a signal after so many steps; returns its exit code and stdout."""
    process = start(args)
    wait_for_steps(process, run, steps)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=120)
    assert "Traceback" not in stderr
    return process.returncode, stdout


@contextmanager
def terminal(
    args: list[str], *before: str, cwd: Path
) -> Iterator[tuple["subprocess.Popen[bytes]", Callable[[], None]]]:
    """Start a run at a terminal of its own; yields it and what closes the terminal."""
    ours, theirs = os.openpty()

    def take_terminal() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup may have started the test suite
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [*before, sys.executable, "-m", "fastdual", *args],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        preexec_fn=take_terminal, cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )  # fmt: skip
    os.close(theirs)
    closing = threading.Event()

    def read() -> None:
        while not closing.is_set():
            if select.select([ours], [], [], 0.05)[0]:
                with suppress(OSError):  # the run has let go of its end, or ended
                    os.read(ours, 1 << 16)

    reader = threading.Thread(target=read)
    reader.start()

    def close() -> None:
        closing.set()
        reader.join()
        os.close(ours)

    try:
        yield process, close
    finally:
        process.kill()
        process.wait()
        if not closing.is_set():
            close()


def assert_same_end(run: Path, undisturbed: Path) -> None:
    ours, theirs = (load_checkpoint(find_checkpoint(path)) for path in (run, undisturbed))
    assert theirs["step"] == STEPS
    pairs = [{key: state[key] for key in COMPARED} for state in (ours, theirs)]
    assert differences(*pairs) == []
    losses = [[(e["step"], e["loss"]) for e in read_log(r, "train")] for r in (run, undisturbed)]
    assert losses[0] == losses[1]


def test_sigterm_saves_and_resume_goes_on_to_the_same_weights(
    index: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    args = arguments(index, run, **SETTINGS)
    code, stdout = signal_after(args, run, steps=5, number=signal.SIGTERM)
    assert code == 143
    assert "--resume" in stdout
    stopped = load_checkpoint(find_checkpoint(run))
    assert 5 <= stopped["step"] < STEPS
    assert read_log(run, "end")[-1]["signal"] == signal.SIGTERM

    refused = invoke(args)
    assert refused.exit_code == 2
    assert "add --resume" in refused.output

    # The config is the run's own: nothing but the data and the folder need be named again.
    result = invoke(["pretrain", str(index), "--run", str(run), "--resume"])
    assert result.exit_code == 0, result.output
    assert f"at step {stopped['step']}" in result.stderr
    assert_same_end(run, undisturbed)


def test_output_whose_reader_is_gone_does_not_end_a_run(
    index: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = start(arguments(index, run, **SETTINGS))
    assert process.stdout is not None and process.stderr is not None
    process.stderr.readline()
    process.stdout.close()
    process.stderr.close()
    assert process.wait(timeout=120) == 0
    assert_same_end(run, undisturbed)


def test_a_terminal_that_closes_leaves_a_checkpoint(
    index: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    args = arguments(index, run, **SETTINGS)
    with terminal(args, cwd=tmp_path) as (process, close):
        wait_for_steps(process, run, 5)
        close()
        assert process.wait(timeout=120) == 128 + signal.SIGHUP
    stopped = read_log(run, "end")[-1]
    assert stopped["signal"] == signal.SIGHUP
    assert load_checkpoint(find_checkpoint(run))["step"] == stopped["step"] < STEPS
    assert invoke(["pretrain", str(index), "--run", str(run), "--resume"]).exit_code == 0
    assert_same_end(run, undisturbed)


@pytest.mark.parametrize("more", [(), ("--gpus", "2", "--device", "cpu")], ids=["one", "two"])
def test_nohup_outlives_its_terminal(index: Path, tmp_path: Path, more: tuple[str, ...]) -> None:
    run = tmp_path / "run"
    args = arguments(index, run, *more, **SETTINGS)
    with terminal(args, "nohup", cwd=tmp_path) as (process, close):
        wait_for_steps(process, run, 5)
        close()
        assert process.wait(timeout=240) == 0
    assert read_log(run, "end")[-1]["complete"]
    assert "checkpoint  " in (tmp_path / "nohup.out").read_text()


def test_sigkill_loses_the_steps_since_the_last_checkpoint_and_a_cut_checkpoint_is_passed_over(
    index: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    args = arguments(index, run, "--resume", **SETTINGS)  # to resume what is not there is to start
    code, _ = signal_after(args, run, steps=10, number=signal.SIGKILL)
    assert code == -signal.SIGKILL
    newest, older = list_checkpoints(run / "checkpoints")[:2]
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])

    result = invoke(args)
    assert result.exit_code == 0, result.output
    assert f"warning: {newest}: damaged" in result.stderr
    assert f"goes on from {older}" in result.stderr
    assert_same_end(run, undisturbed)


def test_a_finished_run_resumed_is_left_as_it_is(index: Path, undisturbed: Path) -> None:
    newest = find_checkpoint(undisturbed)
    before = newest.read_bytes()
    result = invoke(["pretrain", str(index), "--run", str(undisturbed), "--resume"])
    assert result.exit_code == 0, result.output
    assert newest.read_bytes() == before
    assert len(list_checkpoints(undisturbed / "checkpoints")) == 2


def test_resume_refuses_a_checkpoint_that_is_not_of_its_config_or_lacks_a_part(
    index: Path, tmp_path: Path
) -> None:
    """The config has been lost, or edited by hand: neither may train on with other settings."""
    run = tmp_path / "run"
    settings = {**SETTINGS, "schedule__epochs": 1, "schedule__milestones": "[]"}
    first = arguments(index, run, **settings)
    assert invoke(first).exit_code == 0
    again = ["pretrain", str(index), "--run", str(run), "--resume"]
    config, checkpoint = run / "config.toml", find_checkpoint(run)
    text, state = config.read_text(), torch.load(checkpoint, weights_only=True)

    config.write_text(re.sub(r"(?m)^learning_rate = .*$", "learning_rate = 0.5", text))
    result = invoke(again)
    assert result.exit_code == 2
    assert f"{checkpoint}: was trained with optimiser.learning_rate = 0.003" in result.stderr
    config.unlink()
    result = invoke([*first, "--resume", "--set", "run.seed=1"])
    assert result.exit_code == 2
    assert "was trained with run.seed = 0, and" in result.stderr

    config.write_text(text)
    assert invoke(again).exit_code == 0
    torch.save({key: value for key, value in state.items() if key != "order"}, checkpoint)
    result = invoke(again)
    assert result.exit_code == 2
    assert f"{checkpoint}: holds no order, so this fastdual cannot go on" in result.stderr


def test_resume_refuses_other_settings_other_data_and_no_whole_checkpoint(
    index: Path, undisturbed: Path, tmp_path: Path
) -> None:
    again = ["pretrain", str(index), "--run", str(undisturbed), "--resume"]
    result = invoke([*again, "--set", "optimiser.learning_rate=1"])
    assert result.exit_code == 2
    assert "optimiser.learning_rate is 0.003 in the run" in result.stderr
    assert invoke([*again, "--set", "run.keep_checkpoints=2"]).exit_code == 0

    other = write_index(tmp_path, count=8)
    result = invoke(["pretrain", str(other), "--run", str(undisturbed), "--resume"])
    assert result.exit_code == 2
    assert "was trained on other data (24 videos" in result.stderr

    for path in list_checkpoints(undisturbed / "checkpoints"):
        path.write_bytes(b"")
    result = invoke(again)
    assert result.exit_code == 2
    assert "none of its 2 checkpoints is whole" in result.stderr
