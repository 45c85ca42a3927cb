"""Jobs under limits: what fails, hangs or lacks something is named, and what is done is kept."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bench.parts.gpu_check import run
from bench.parts.gpu_check.jobs import Job
from bench.parts.gpu_check.run import Visit, run_stage


@pytest.fixture
def visit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Visit:
    """Jobs are modules in a folder on the path."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return Visit(tmp_path, tmp_path / "bundle", rehearse=True)


def job(folder: Path, name: str, code: str, seconds: int = 60, needs: tuple[str, ...] = ()) -> Job:
    (folder / f"{name}.py").write_text(code)
    return Job(name, (name, "{out}", "{data}"), ("--tiny",), seconds, needs)


def test_a_job_gets_its_options_and_leaves_its_output(visit: Visit) -> None:
    (visit.bundle / "site").mkdir(parents=True)
    (visit.bundle / "site" / "brought.py").write_text("")
    (visit.bundle / "commit").write_text("abc123\n")
    code = "import brought, os, sys; print(*sys.argv[1:], os.environ['FASTDUAL_COMMIT'])"
    code += "; import fastdual.kernels, bench.losses"
    fine = job(visit.out, "fine", code)
    (row,) = run_stage("s", [fine], replace(visit, rehearse=False))
    assert (row["outcome"], row["note"]) == ("ok", "")
    said = (visit.out / "s.log").read_text().splitlines()[-1]
    assert said == f"{visit.out} {visit.data} abc123"
    (row,) = run_stage("rehearsal", [fine], visit)
    assert "No module named 'brought'" in row["note"], "the packages are for another Python"
    assert "--tiny" in (visit.out / "rehearsal.log").read_text()


def test_what_fails_hangs_or_lacks_something_ends_nothing_else(
    visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_STOP_SECONDS", 0.5)
    # It starts a child, and neither ends when it is asked to.
    child = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
    hangs = f"import subprocess, sys\nchild = subprocess.Popen([sys.executable, '-c', {child!r}])\n"
    hangs += f"open({str(visit.out / 'pid')!r}, 'w').write(str(child.pid))\n{child}"
    jobs = [
        job(visit.out, "fails", "raise SystemExit('the reason')"),
        job(visit.out, "hangs", hangs, seconds=3),
        job(visit.out, "lacks", "", needs=("nvidia.no_such", "data")),
        job(visit.out, "fine", ""),
    ]
    rows = {row["job"]: row for row in run_stage("s", jobs, visit)}
    assert rows["fails"]["note"].startswith("exit code 1: the reason (")
    assert rows["hangs"]["outcome"] == "cut off" and rows["hangs"]["seconds"] < 30
    assert rows["lacks"]["outcome"] == "not run"
    assert rows["lacks"]["note"] == f"needs nvidia.no_such and the videos ({visit.data})"
    assert rows["fine"]["outcome"] == "ok"
    pid = int((visit.out / "pid").read_text())
    for _ in range(50):
        if not _runs(pid):
            break
        time.sleep(0.1)
    assert not _runs(pid), "a child outlived its job"


def _runs(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_the_same_command_again_does_what_was_not_done(visit: Visit) -> None:
    once = f"open({str(visit.out / 'count')!r}, 'a').write('x')"
    jobs = [job(visit.out, "fine", once), job(visit.out, "fails", "raise SystemExit(1)")]
    run_stage("s", jobs, visit)
    (visit.out / "fails.py").write_text("")
    rows = run_stage("s", jobs, visit)
    assert (visit.out / "count").read_text() == "x"
    assert [(row["job"], row["outcome"]) for row in rows] == [("fine", "ok"), ("fails", "ok")]


def test_a_job_that_has_no_time_left_is_named(
    visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "STAGE_SECONDS", run.LEAST_SECONDS - 1)
    (row,) = run_stage("s", [job(visit.out, "late", "")], visit)
    assert (row["outcome"], row["note"]) == ("not run", "no time left; run the stage again")
    assert os.listdir(visit.out) and not (visit.out / "s.log").exists()
