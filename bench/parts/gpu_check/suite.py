"""The tests that need a GPU, as a job of bench.gpu_check: one row per test, on disk at once.

    python -m bench.parts.gpu_check.suite --out PATH [--paths tests/kernels] [--marker gpu]

A test that is skipped is a row too, with the reason: nothing is left out unseen. The same command
again runs what has not passed.
"""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.parts.results import Table

PROCESSES = 8  # compiling kernels takes most of the time, and it takes CPUs


class Recorder:
    """Plugin of pytest: adds a row for every test that has run, failed to start, or was skipped."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._add(report, "not collected")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped or report.failed or report.when == "call":
            self._add(report, report.outcome)

    def _add(self, report: pytest.CollectReport | pytest.TestReport, outcome: str) -> None:
        seconds = round(getattr(report, "duration", 0.0), 2)
        row = {"test": report.nodeid, "outcome": outcome, "seconds": seconds}
        self.table.add(row | {"note": "" if report.passed else reason(report)})


def reason(report: pytest.CollectReport | pytest.TestReport) -> str:
    """Return why a test was skipped or failed, in one line."""
    if isinstance(report.longrepr, tuple | list):  # file, line and reason of a skip
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    lines = (crash.message if crash else report.longreprtext).strip().splitlines()
    return (lines[0] if crash else lines[-1]) if lines else ""


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="results without extension")
    parser.add_argument("--paths", nargs="+", default=["tests/kernels", "tests"])
    parser.add_argument("--marker", default="gpu")
    parser.add_argument("--processes", type=int, default=PROCESSES)
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Run the tests; return pytest's exit code."""
    options = parse(words)
    command = ["-q", "-p", "no:cacheprovider", "--timeout=120", "-m", options.marker]
    command.append("--continue-on-collection-errors")
    if importlib.util.find_spec("xdist") is not None and options.processes > 1:
        command += ["-n", str(options.processes)]
    table = Table(options.out, keep=True)
    table.rows = [row for row in table.rows if row["outcome"] == "passed"]
    command += [f"--deselect={row['test']}" for row in table.rows]
    code = int(pytest.main([*command, *options.paths], plugins=[Recorder(table)]))
    return 0 if code == pytest.ExitCode.NO_TESTS_COLLECTED and table.rows else code


if __name__ == "__main__":
    sys.exit(main())
