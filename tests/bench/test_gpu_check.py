"""`make gpu-check` where there is no GPU: what it runs, says, writes and returns."""

import json
import sys
from pathlib import Path

import pytest
import torch

from bench import gpu_check
from bench.gpu_check import Check

FINE = Check("fine", ("-c", "print('compiled')"), 60, needs_gpu=False)
BROKEN = Check("broken", ("-c", "raise SystemExit(3)"), 60, needs_gpu=False)
SLOW = Check("slow", ("-c", "import time; time.sleep(60)"), 1, needs_gpu=False)
FOR_A_GPU = Check("speed", ("-c", "raise SystemExit(9)"), 60)


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def check(checks: tuple[Check, ...], out: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(gpu_check, "CHECKS", checks)
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--out", str(out)])
    return gpu_check.main()


def test_it_compiles_says_what_is_left_and_exits_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check((FINE, FOR_A_GPU), tmp_path / "out", monkeypatch) == 0
    said = capsys.readouterr().out
    assert "fine: ok" in said
    assert "no CUDA device here: only the compilation was checked; left for one: speed" in said
    assert (tmp_path / "out" / "fine.log").read_text() == "compiled\n"
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [(c["name"], c["passed"]) for c in summary["checks"]] == [("fine", True)]
    assert {"device", "commit", "date"} <= set(summary["machine"])


def test_what_fails_or_takes_too_long_is_named_and_ends_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check((BROKEN, SLOW, FINE), tmp_path, monkeypatch) == 1
    said = capsys.readouterr().out
    assert "broken: FAILED: exit code 3" in said and "slow: FAILED: not done after 1 s" in said
    assert "fine: ok" in said


def test_the_checks_are_all_that_only_a_gpu_shows_in_ten_minutes() -> None:
    compiling = [c for c in gpu_check.CHECKS if not c.needs_gpu]
    assert [c.name for c in compiling] == ["compile"]
    assert {c.name for c in gpu_check.CHECKS} >= {"tests", "losses", "train", "loader"}
    assert sum(c.limit_seconds for c in gpu_check.CHECKS if c.needs_gpu) <= 600
