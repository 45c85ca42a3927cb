"""bench.gpu_check without a GPU: every stage is rehearsed, and says what it did and did not do."""

import json
from pathlib import Path

import pytest
import torch

from bench import gpu_check
from bench.parts.gpu_check import run
from bench.parts.gpu_check.jobs import STAGES, Job


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def check(stage: str, out: Path, *more: str) -> int:
    return gpu_check.main(["--stage", stage, "--out", str(out), "--bundle", str(out), *more])


def test_without_a_gpu_it_says_how_to_rehearse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        check("kernels", tmp_path)
    assert stopped.value.code == 2
    assert "no CUDA device here; --rehearse" in capsys.readouterr().err


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_runs_its_jobs_in_order_and_ends_with_a_screen(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In place of each job a process that says what it was asked to do; `--rehearse` runs the real
    ones, and parts/gpu_check/test_jobs.py one of them."""
    asked: list[Job] = []

    def stand_in(job: Job, visit: run.Visit, log: Path, limit: float) -> dict[str, object]:
        asked.append(job)
        assert 0 < limit <= job.seconds
        return {"outcome": "ok", "note": "", "seconds": 1.0}

    monkeypatch.setattr(run, "_run", stand_in)
    monkeypatch.setattr(run.Visit, "missing", lambda self, needs: "")
    assert check(stage, tmp_path, "--rehearse") == 0
    assert asked == list(STAGES[stage])
    text = (tmp_path / f"{stage}.txt").read_text()
    assert capsys.readouterr().out.endswith(text)
    assert all(f"  {job.name} " in text for job in asked)
    assert len(text.splitlines()) < 40
    ledger = json.loads((tmp_path / f"{stage}_jobs.json").read_text())
    assert [row["job"] for row in ledger] == [job.name for job in asked]


def test_a_stage_takes_less_than_eight_minutes() -> None:
    assert run.STAGE_SECONDS + run.LEAST_SECONDS < 480
    for stage, jobs in STAGES.items():
        assert len({job.name for job in jobs}) == len(jobs)
        assert all(job.seconds <= run.STAGE_SECONDS for job in jobs), stage
