"""The end of processes that have met: at once, with their code, whatever threads still wait."""

import subprocess
import sys

from tests.conftest import PROJECT

# A thread that never ends, as one that waits for a stopped process in torch's C++.
_CODE = """
import atexit, sys, threading, click
import fastdual.__main__, fastdual.cli
from fastdual.distributed.ending import note_meeting
threading.Thread(target=threading.Event().wait).start()
atexit.register(print, "cleaned up")
note_meeting()
def cli():
    print("done")
    sys.exit(CODE)
fastdual.cli.cli = cli
fastdual.__main__.main()
"""


def test_a_process_that_has_met_ends_with_its_code_and_its_output() -> None:
    for code in (0, 1, 143):
        command = [sys.executable, "-c", _CODE.replace("CODE", str(code))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=PROJECT)
        assert (done.returncode, done.stderr) == (code, "")
        assert done.stdout == "done\ncleaned up\n"
