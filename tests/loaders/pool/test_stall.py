"""A machine or storage that stalls is waited for; nothing is blamed that may be sound."""

import errno
import logging
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

import fastdual.loaders.pool.pool as pool_module
from fastdual.loaders.index import build_index
from fastdual.loaders.loader import ClipLoader
from fastdual.loaders.pool import ProcessPool, TaskFailure
from tests.loaders.clips import encode
from tests.loaders.loading import SPEC
from tests.loaders.processes import worker_pids

RUN = "tests.loaders.pool.tasks:run"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "_PAUSES", (0.1,))


def trouble(folder: Path, name: str, times: int, error: int | None = None) -> tuple[str, object]:
    return "trouble", (str(folder), name, times, error)


def test_several_that_wait_at_once_are_tried_until_they_succeed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "fastdual.loaders")
    with ProcessPool(RUN, num_workers=2, timeout_seconds=1, send_ahead=True) as pool:
        tickets = [pool.submit(trouble(tmp_path, name, 5)) for name in "ab"]
        assert [pool.result(ticket) for ticket in tickets] == ["a", "b"]
    assert "the storage or the machine stalls: 2 videos wait" in caplog.text
    assert "answer again, after" in caplog.text


def test_one_that_waits_while_others_succeed_fails_after_some_tries(tmp_path: Path) -> None:
    with ProcessPool(RUN, num_workers=2, timeout_seconds=1) as pool:
        bad = pool.submit(trouble(tmp_path, "bad", 100))
        for number in range(60):
            assert pool.result(pool.submit(("square", number))) == number**2
            time.sleep(0.1)
        assert pool.result(bad) == TaskFailure("took longer than 1 s", "timeout")
    assert len((tmp_path / "bad").read_text()) == 4


def test_one_that_is_known_to_be_good_is_waited_for(tmp_path: Path) -> None:
    with ProcessPool(RUN, num_workers=2, timeout_seconds=1) as pool:
        good = pool.submit(trouble(tmp_path, "good", 6), patient=True)
        for number in range(20):
            assert pool.result(pool.submit(("square", number))) == number**2
            time.sleep(0.1)
        assert pool.result(good) == "good"


@pytest.mark.parametrize(
    "error", [errno.EIO, errno.ESTALE, errno.EACCES, errno.ENOMEM, errno.EMFILE, errno.ETIMEDOUT]
)
def test_an_error_of_reading_is_tried_again(error: int, tmp_path: Path) -> None:
    with ProcessPool(RUN, num_workers=1, timeout_seconds=60) as pool:
        assert pool.result(pool.submit(trouble(tmp_path, "a", 3, error))) == "a"
        failure = pool.result(pool.submit(trouble(tmp_path, "b", 100, error)))
    assert isinstance(failure, TaskFailure) and failure.kind == "passing" and failure.may_pass
    assert len((tmp_path / "b").read_text()) == 4


def test_an_error_of_the_task_is_not_tried_again(tmp_path: Path) -> None:
    with ProcessPool(RUN, num_workers=1, timeout_seconds=60) as pool:
        failure = pool.result(pool.submit(trouble(tmp_path, "a", 3, errno.EINVAL)))
    assert isinstance(failure, TaskFailure) and not failure.may_pass
    assert (tmp_path / "a").read_text() == "x"


def test_a_stall_that_does_not_end_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "_LONGEST_STALL_SECONDS", 2.0)
    with ProcessPool(RUN, num_workers=2, timeout_seconds=0.5) as pool:
        tickets = [pool.submit(trouble(tmp_path, name, 100)) for name in "abc"]
        kinds = {pool.result(ticket).kind for ticket in tickets}
    assert "stalled" in kinds


def test_stopped_workers_change_neither_batches_nor_quarantine(tmp_path: Path) -> None:
    for number in range(8):
        encode(tmp_path / "v" / f"{number}.mp4", 10 + number)
    index = build_index(tmp_path / "v", tmp_path / "x.h5", num_workers=2)

    def load(stop: bool) -> list[torch.Tensor]:
        batches = []
        quarantine = tmp_path / "quarantine.jsonl"
        with ClipLoader(
            index, SPEC, batch_size=4, num_workers=2, timeout_seconds=3, quarantine_path=quarantine
        ) as loader:
            stopping = threading.Thread(target=stop_workers) if stop else None
            if stopping is not None:
                stopping.start()
            for _ in range(4):
                batches += [batch.clips.clone() for batch in loader]
            if stopping is not None:
                stopping.join()
        assert not quarantine.exists()
        return batches

    def stop_workers() -> None:
        """Stop every worker there is, as a machine that swaps or a mount that hangs does."""
        stopped: set[int] = set()
        deadline = time.monotonic() + 30
        while len(stopped) < 2 and time.monotonic() < deadline:
            for pid in worker_pids():
                if pid not in stopped:
                    os.kill(pid, signal.SIGSTOP)
                    stopped.add(pid)
            time.sleep(0.02)

    disturbed, undisturbed = load(stop=True), load(stop=False)
    assert all(torch.equal(a, b) for a, b in zip(disturbed, undisturbed, strict=True))
