"""The files of results, and the machine that they name."""

import csv
import json
from pathlib import Path

import pytest
import torch

from bench.parts.results import Table, describe_machine, read_rows, write_rows


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


def test_a_row_is_on_disk_at_once_and_found_again(tmp_path: Path) -> None:
    table = Table(tmp_path / "table")
    table.add({"name": "a", "rows": 1})
    assert read_rows(tmp_path / "table.json") == [{"name": "a", "rows": 1}]
    table.add({"name": "b", "rows": 1})
    again = Table(tmp_path / "table", keep=True)
    assert again.has(name="b", rows=1) and not again.has(name="b", rows=2)
    again.drop(name="a")
    again.add({"name": "c", "rows": 1})
    assert [row["name"] for row in read_rows(tmp_path / "table.json")] == ["b", "c"]
    assert Table(tmp_path / "table").rows == []


def test_a_copy_without_git_has_the_commit_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTDUAL_COMMIT", "abc123")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert describe_machine(torch.device("cpu"))["commit"] == "abc123"
