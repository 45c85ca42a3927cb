"""Runs whose terminal closes, or whose output is read no more."""

import fcntl
import os
import select
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch

from fastdual.distributed.signals import STOP_SIGNALS, StopRequest
from fastdual.errors import FailureError
from fastdual.run.checkpoint import find_checkpoint, load_checkpoint
from tests.runs import (
    arguments,
    invoke,
    read_log,
    start,
    wait_for_steps,
    write_index,
)
from tests.training.undisturbed import (
    NUM_VIDEOS,
    SETTINGS,
    STEPS,
    assert_same_end,
    write_undisturbed,
)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_index(tmp_path_factory.mktemp("data"), count=NUM_VIDEOS)


@pytest.fixture(scope="module")
def undisturbed(index: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_undisturbed(index, tmp_path_factory.mktemp("undisturbed") / "run")


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


def test_a_failed_run_reports_before_a_launcher_ends_it() -> None:
    """The others of a launch get SIGTERM as soon as one failed: it may not cut the reason off."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        with suppress(FailureError), StopRequest(last=True):
            raise FailureError("lost")
        os.kill(os.getpid(), signal.SIGTERM)  # would end this process
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_every_signal_that_asks_to_stop_is_noted(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_DFL)  # the suite itself may run under nohup
    try:
        with StopRequest() as stop:
            assert not stop()
            os.kill(os.getpid(), number)
            assert stop()
            assert stop.signal_number == number
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
