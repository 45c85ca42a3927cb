"""The files of results, and the machine that they name."""

import csv
import json
from pathlib import Path

import torch

from bench.parts.results import describe_machine, read_rows, write_rows


def test_rows_are_written_with_all_columns(tmp_path: Path) -> None:
    rows = [{"loss": "clip", "status": "out of memory"}, {"loss": "clip", "median_ms": 1.5}]
    write_rows(rows, tmp_path / "new" / "losses")
    with (tmp_path / "new" / "losses.csv").open() as file:
        assert [*csv.DictReader(file)] == [
            {"loss": "clip", "status": "out of memory", "median_ms": ""},
            {"loss": "clip", "status": "", "median_ms": "1.5"},
        ]
    assert json.loads((tmp_path / "new" / "losses.json").read_text()) == rows
    assert read_rows(tmp_path / "new" / "losses.json") == rows
    assert read_rows(tmp_path / "none.json") == []


def test_machine_is_described() -> None:
    machine = describe_machine(torch.device("cpu"))
    assert machine["device"] and machine["torch"] == torch.__version__ and machine["date"]
