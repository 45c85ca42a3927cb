"""Run as a file: runs tests in forks of a process that has loaded torch and Triton.

Importing both is what takes longest. A line of test names comes in, how the tests end goes out.
This process imports nothing of ours, so that each fork imports the code as it is then.
"""

import json
import os
import signal
import sys

import pytest
import torch  # noqa: F401
import triton  # noqa: F401

SECONDS = 1200  # of one mutant; a change may make a loop endless


def _serve() -> None:
    """For every line of tests, print how a fork that runs them ends."""
    sys.path[0] = os.getcwd()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            signal.alarm(SECONDS)
            for said in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), said)
            options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
            os._exit(int(pytest.main([*options, *json.loads(line)])))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    _serve()
