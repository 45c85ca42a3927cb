"""Jobs of the stages: their options are understood, and one is rehearsed as it will run."""

import importlib
from pathlib import Path

import pytest

from bench.parts.gpu_check.jobs import STAGES, Job
from bench.parts.gpu_check.run import Visit, run_stage
from bench.parts.results import read_rows

JOBS = [job for jobs in STAGES.values() for job in jobs]


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_options_are_understood(job: Job, tmp_path: Path) -> None:
    module = importlib.import_module(job.command[0])
    for words in (job.command[1:], (*job.command[1:], *job.rehearsal)):
        parsed = module.parse([word.format(out=tmp_path, data=tmp_path) for word in words])
        assert parsed.out.parent == tmp_path and parsed.out.name.endswith("_cuda")


def test_tiles(tmp_path: Path) -> None:
    """In a process, whose kernels are interpreted."""
    jobs = [job for job in STAGES["kernels"] if job.name == "tiles"]
    (row,) = run_stage("kernels", jobs, Visit(tmp_path, tmp_path, rehearse=True))
    assert row["outcome"] == "ok", (tmp_path / "kernels.log").read_text()
    rows = read_rows(tmp_path / "tiles_cuda.json")
    assert [row["kernel"] for row in rows if row.get("fastest")] == ["forward", "backward"]
    assert [row["is_chosen"] for row in rows if row["status"] == "ok"] == [True, False] * 2
