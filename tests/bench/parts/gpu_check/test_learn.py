"""A short pretraining: its readings become rows while it runs."""

import json
import sys
from pathlib import Path

import pytest

from bench.parts.gpu_check import learn
from bench.parts.results import read_rows


def test_readings_are_rows_and_the_exit_code_is_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [{"event": "start"}, {"event": "train", "step": 1, "loss": 2.0, "rank_accuracy": 0.5}]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"event": "tra'
    code = "import pathlib, sys\nrun = pathlib.Path(sys.argv[1])\nrun.mkdir()\n"
    code += f"(run / 'log.jsonl').write_text({text!r})\nsys.exit(3)"

    def command_of(options: object, run: Path) -> list[str]:
        return [sys.executable, "-c", code, str(run)]

    monkeypatch.setattr(learn, "command_of", command_of)
    assert learn.main(["--data", "x", "--out", str(tmp_path / "learn")]) == 3
    (row,) = read_rows(tmp_path / "learn.json")
    assert (row["step"], row["loss"], row["rank_accuracy"]) == (1, 2.0, 0.5) and row["torch"]
