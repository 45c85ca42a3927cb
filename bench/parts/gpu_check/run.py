"""Runs the jobs of a stage of bench.gpu_check, each in a process of its own under a time limit."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.parts.gpu_check.jobs import STAGE_SECONDS, Job
from bench.parts.results import RESULTS, Row, Table

ROOT = RESULTS.parents[1]
LEAST_SECONDS = 20  # a job that has less is not begun
_STOP_SECONDS = 5
_ON_A_CPU = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
_PACKAGES = {
    "av": "PyAV",
    "nvidia.dali": "DALI",
    "triton": "Triton",
    "pytest_timeout": "pytest-timeout",
}


@dataclass(frozen=True)
class Visit:
    """Where results go, what was brought along, and whether this is a rehearsal on a CPU."""

    out: Path
    bundle: Path
    rehearse: bool

    @property
    def data(self) -> Path:
        """The videos of the bundle."""
        return self.bundle / "data"

    @property
    def site(self) -> Path | None:
        """The packages of the bundle; none for a rehearsal, as they are for another machine."""
        return None if self.rehearse else self.bundle / "site"

    def environment(self, job: Job) -> dict[str, str]:
        """Return the environment of a job: the checkout and the bundle's packages come first."""
        paths = [ROOT, self.site, os.environ.get("PYTHONPATH")]
        added = {"PYTHONPATH": os.pathsep.join(str(path) for path in paths if path)}
        added["PYTHONUNBUFFERED"] = "1"
        commit = self.bundle / "commit"
        if commit.is_file():
            added["FASTDUAL_COMMIT"] = commit.read_text().strip()
        added |= _ON_A_CPU if self.rehearse else {"FASTDUAL_REQUIRE_GPU": "1"}
        if self.rehearse and "triton" in job.needs:
            added["TRITON_INTERPRET"] = "1"
        return os.environ | added

    def missing(self, needs: Sequence[str]) -> str:
        """Return the names of what is not here, "" if all is."""
        absent = [name for name in needs if not self._has(name)]
        return " and ".join(
            f"the videos ({self.data})" if name == "data" else _PACKAGES.get(name, name)
            for name in absent
        )

    def _has(self, name: str) -> bool:
        return self.data.is_dir() if name == "data" else is_installed(name)


def is_installed(package: str) -> bool:
    """Return whether a package can be imported, without importing it."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of the package above it
        return False


def run_stage(stage: str, jobs: Sequence[Job], visit: Visit) -> list[Row]:
    """Run what has not been done yet; return how each job ended, also those of earlier calls.

    Args:
        stage: Its name, for STAGE.log and STAGE_jobs.json.
        jobs: In the order in which they run.
        visit: Where and how.
    """
    ledger = Table(visit.out / f"{stage}_jobs", keep=True)
    end = time.monotonic() + STAGE_SECONDS
    for job in jobs:
        if ledger.has(job=job.name, outcome="ok"):
            print(f"{job.name}: done before", flush=True)
            continue
        ledger.drop(job=job.name)
        left = end - time.monotonic()
        if missing := visit.missing(job.needs):
            ending: Row = {"outcome": "not run", "note": f"needs {missing}"}
        elif left < LEAST_SECONDS:
            ending = {"outcome": "not run", "note": "no time left; run the stage again"}
        else:
            limit = min(job.seconds, left)
            print(f"{job.name} (at most {limit:.0f} s) ...", flush=True)
            ending = _run(job, visit, visit.out / f"{stage}.log", limit)
        ledger.add({"job": job.name, **ending})
        took = f" after {ending['seconds']} s" if "seconds" in ending else ""
        print(f"{job.name}: {ending['outcome']}{took} {ending['note']}", flush=True)
    return ledger.rows


def _run(job: Job, visit: Visit, log: Path, limit: float) -> Row:
    """Run one job with its output at the end of a log."""
    words = (*job.command, *(job.rehearsal if visit.rehearse else ()))
    command = [part.format(out=visit.out, data=visit.data) for part in words]
    start, place = time.monotonic(), log.stat().st_size if log.exists() else 0
    with log.open("a") as output:
        print(f"== {job.name}: python -m {' '.join(command)}", file=output, flush=True)
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdout=output, stderr=output, stdin=subprocess.DEVNULL,
            env=visit.environment(job), cwd=ROOT, start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(limit)
            outcome, note = ("ok", "") if code == 0 else ("failed", f"exit code {code}: ")
        except subprocess.TimeoutExpired:
            outcome, note = "cut off", f"at its limit of {limit:.0f} s; its rows are kept"
        finally:
            _stop(process)
    if outcome == "failed":
        note += _last_line(log, place)
    return {"outcome": outcome, "note": note, "seconds": round(time.monotonic() - start, 1)}


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End a process and those it has started, which share its process group."""
    for stop in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            break
        os.killpg(process.pid, stop)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue


def _last_line(log: Path, place: int) -> str:
    with log.open(errors="replace") as text:
        text.seek(place)
        lines = [line for line in text.read().splitlines() if line.strip()]
    return f"{lines[-1].strip()[:160]} ({log})"
