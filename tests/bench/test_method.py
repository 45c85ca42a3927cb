"""bench.method's command: cells of a set in processes, a summary of the log alone."""

from pathlib import Path

import pytest

from bench import method
from bench.parts.method.journal import append, read
from tests.bench.parts.method.small import row


def test_a_summary_needs_no_videos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "m"
    for name in ("clip+rank+coherence", "scratch"):
        append(out.with_suffix(".jsonl"), row(name, {"finetuned_100": [1.0, 0.0] * 4}))
    method.main(["--summary", "--out", str(out)])
    assert "| scratch | 50.0 (" in capsys.readouterr().out
    assert "| scratch | 50.0 (" in out.with_suffix(".txt").read_text()
    assert out.with_suffix(".png").stat().st_size > 10_000


def test_one_cell_in_a_process_of_its_own_and_once_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The baselines alone are quick: no contestant is asked for."""
    from tests.bench.parts.method.small import small_set

    small_set(tmp_path)
    monkeypatch.setitem(method.SETS, "small", (2, 3))
    options = ["--data", str(tmp_path), "--sets", "small", "--out", str(tmp_path / "m")]
    options += ["--work", str(tmp_path / "w"), "--seeds", "1"]
    cells = method._cells(method._parse([*options, "--contestants", "clip"]))
    baselines = [cell for cell in cells if cell.contestant == "mean frame"]
    for _ in range(2):
        method.main([*options, "--cell", baselines[0].key, "--contestants", "clip"])
    (found,) = read(tmp_path / "m.jsonl")
    assert (found["contestant"], found["fold"]) == ("mean frame", 0)
    with pytest.raises(SystemExit, match="start the command again"):
        method.main([*options, "--cell", "0" * 16])


def test_what_a_cell_needs_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        method.main([])
    assert "--data" in capsys.readouterr().err
