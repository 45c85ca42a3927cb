"""What a soak does is what it says: workers stand still, files wait to be opened."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bench.parts.soak.attacks import slow_to_open, stopped


def test_a_slow_file_is_opened_when_the_slowness_ends(tmp_path: Path) -> None:
    video, opened = tmp_path / "video", list[float]()
    video.write_bytes(b"x")

    def read() -> None:
        # A process of its own: nobody waits for a lease of the same process.
        subprocess.run([sys.executable, "-Sc", f"open({str(video)!r})"], check=True)
        opened.append(time.monotonic())

    reader = threading.Thread(target=read)
    with slow_to_open(video):
        reader.start()
        time.sleep(1)
        ended = time.monotonic()
        assert not opened
    reader.join()
    assert opened[0] > ended


def test_a_process_stands_still(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "100"]) as child:
        with stopped(child.pid):
            _, status = os.waitpid(child.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status)
        _, status = os.waitpid(child.pid, os.WCONTINUED)
        assert os.WIFCONTINUED(status)
        child.kill()
    with pytest.raises(ProcessLookupError), stopped(child.pid):
        pass
