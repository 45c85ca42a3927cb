"""The background thread and its workers: they end with the loader, whatever happens."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastdual.errors import FailureError
from fastdual.loaders.index import VideoIndex, save_index
from fastdual.loaders.loader import ClipLoader
from fastdual.loaders.pool.channel import Channel
from tests.loaders.loading import (
    SPEC,
)
from tests.loaders.processes import children, is_worker


def test_closing_ends_thread_and_workers(index: VideoIndex):
    before, threads = children(), threading.active_count()
    loader = ClipLoader(index, SPEC, batch_size=4, num_workers=2)
    next(iter(loader))
    assert len(children() - before) >= 1
    loader.close()
    loader.close()
    assert children() == before
    assert threading.active_count() <= threads
    assert len(next(iter(loader)).clips) == 4  # and it can be used again
    loader.close()


def test_a_loader_nobody_holds_is_cleared_away(index: VideoIndex):
    before = children()
    loader = ClipLoader(index, SPEC, batch_size=4, num_workers=1)
    next(iter(loader))
    gone = weakref.ref(loader)
    del loader
    gc.collect()
    assert gone() is None
    assert not children() - before  # a process of an earlier test may have ended meanwhile


def test_a_loader_may_be_collected_in_a_thread_of_its_own(
    index: VideoIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The garbage collector runs wherever memory is asked for."""
    threads, before = set(threading.enumerate()), children()
    held = [ClipLoader(index, SPEC, batch_size=4, num_workers=1)]
    next(iter(held[0]))
    receive, collected_in = Channel.receive, set()

    def collect(channel: Channel) -> Any:
        if held:
            held.clear()
            collected_in.add(threading.current_thread().name)
        return receive(channel)

    monkeypatch.setattr(Channel, "receive", collect)
    deadline = time.monotonic() + 30
    while set(threading.enumerate()) - threads or children() - before:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert collected_in == {"fastdual-pool"}


def test_closing_does_not_wait_for_workers_that_hang(index: VideoIndex) -> None:
    before, errors = children(), []

    def read() -> None:
        try:
            next(iter(loader))
        except FailureError as error:
            errors.append(str(error))

    loader = ClipLoader(index, SPEC, batch_size=4, num_workers=1)
    reader = threading.Thread(target=read)
    reader.start()
    deadline = time.monotonic() + 60
    while not any(map(is_worker, children() - before)) and time.monotonic() < deadline:
        time.sleep(0.01)
    (pid,) = children() - before
    os.kill(pid, signal.SIGSTOP)  # before it has decoded anything
    time.sleep(0.5)
    started = time.monotonic()
    loader.close()
    assert time.monotonic() - started < 10  # one that hangs is given up after 60 s
    reader.join(60)
    assert errors == ["the loader was closed while it was read"]
    assert children() == before


def test_a_script_that_never_closes_its_loader_ends(index: VideoIndex, tmp_path: Path):
    saved = tmp_path / "x.h5"
    save_index(index, saved)
    code = (
        "import sys; from pathlib import Path\n"
        "from fastdual.loaders.index import load_index\n"
        "from fastdual.loaders.loader import ClipLoader\n"
        "from fastdual.loaders.plan import ClipSpec\n"
        "spec = ClipSpec(resize_height=40, resize_width=57, crop_size=32)\n"
        "loader = ClipLoader(load_index(Path(sys.argv[1])), spec, batch_size=4)\n"
        "for batch in loader: break\n"
        "print('seen', flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(saved)], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "seen\n", "")


def test_an_error_in_the_background_reaches_the_reader_again_and_again(index: VideoIndex):
    damaged = replace(index)
    object.__setattr__(damaged, "rotation", ())  # as a bug of ours might
    loader = ClipLoader(damaged, SPEC, batch_size=4, num_workers=1)
    for _ in range(2):
        with pytest.raises(IndexError):
            next(iter(loader))
    loader.close()


def test_waiting_is_measured_and_batches_are_made_ahead(index: VideoIndex):
    with ClipLoader(index, SPEC, batch_size=4, num_workers=1) as loader:
        iterator = iter(loader)
        next(iterator)
        first = loader.data_wait_seconds
        assert first > 0.05  # workers and graph start
        time.sleep(1.5)
        next(iterator)
        assert loader.data_wait_seconds - first < 0.05
