"""A run's log: lines of JSON, and Weights & Biases."""

import json
import math
from importlib.util import find_spec
from pathlib import Path

import pytest

from fastdual.run.log import RunLog
from tests.runs import arguments, invoke, write_index


def test_log_lines_beyond_the_resumed_step_are_dropped(tmp_path: Path) -> None:
    lines = [json.dumps({"event": "train", "step": step}) for step in (1, 2, 3)]
    # What a kill cut, and what a crash of the machine may leave.
    cut = b'\n\xff\x00\n{"event": "tr'
    (tmp_path / "log.jsonl").write_bytes("\n".join(lines).encode() + cut)
    log = RunLog(tmp_path, start_step=2)
    log.event("start", step=2, loss=math.nan)
    log.close()
    kept = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(e["event"], e["step"]) for e in kept] == [("train", 1), ("train", 2), ("start", 2)]
    assert kept[-1]["loss"] is None


def test_wandb_is_refused_where_it_is_not_and_gets_the_numbers_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    index, run = write_index(tmp_path, count=4), tmp_path / "run"
    settings = {"run__wandb_project": "videos", "schedule__epochs": 1, "schedule__milestones": "[]"}
    result = invoke(arguments(index, run, **settings))
    if find_spec("wandb") is None:
        assert result.exit_code == 2
        assert "run.wandb_project = 'videos': wandb is not installed; pip" in result.stderr
        assert not run.exists()
        return
    assert result.exit_code == 0, result.output
    (stored,) = run.glob("wandb/offline-run-*/run-*.wandb")
    assert b"train/loss" in stored.read_bytes()
