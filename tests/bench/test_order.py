"""bench.order at a small size: what it writes, and that it tells what is too much."""

import json
from pathlib import Path

import pytest

from bench import order


def test_a_small_run_writes_what_it_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "order.json"
    assert order.main(["--videos", "1000", "--samples", "4", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["videos"] == 1000 and found["order_mb"] < 1 and found["order_seconds"] < 1
    assert found["device"] and found["commit"]
    assert "the order of 1,000 videos" in capsys.readouterr().out


def test_what_is_too_much_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(order.LIMITS, "plan_ms", 0.0)
    arguments = ["--videos", "10", "--samples", "4", "--out", str(tmp_path / "order.json")]
    assert order.main(arguments) == 1
    assert "PROBLEM: plan_ms is" in capsys.readouterr().out
