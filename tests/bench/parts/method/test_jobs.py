"""Cells in processes: what is measured is skipped, what fails is named, what is left is said."""

from pathlib import Path

import pytest

from bench.parts.method.cells import Cell
from bench.parts.method.jobs import duration, run_all, seconds_left
from bench.parts.method.journal import append, read
from tests.bench.parts.method.small import row, small_set

CODE = """
import json, sys
from pathlib import Path
from bench.parts.method.journal import append
row = json.loads(sys.argv[2])
print("measuring", row["key"])
sys.exit(3) if row["contestant"] == "clip" else append(Path(sys.argv[1]), row)
"""


def test_cells_are_measured_once_and_failures_are_named(tmp_path: Path) -> None:
    import json

    data, log, said = small_set(tmp_path), tmp_path / "log.jsonl", list[str]()
    names = ("clip+rank", "clip", "scratch", "clip+rank+coherence")
    cells = [Cell(data, 0, 0, name) for name in names]
    append(log, row("scratch", {"m": [1, 0]}, key=cells[2].key))

    def command(cell: Cell) -> list[str]:
        made = row(cell.contestant, {"m": [1, 0]}, key=cell.key)
        return ["-c", CODE, str(log), json.dumps(made)]

    failed = run_all(cells, command, log=log, work=tmp_path, jobs=2, say=said.append)
    assert failed == [cells[1]]
    assert [r["key"] for r in read(log)].count(cells[2].key) == 1
    assert {r["key"] for r in read(log)} == {cell.key for cell in (cells[0], cells[2], cells[3])}
    assert said[0] == "3 of 4 cells are to be measured, 2 at a time"
    assert sum("failed (exit code 3): small, fold 0, seed 0: clip" in line for line in said) == 1
    assert sum("50.0 %, took 1 min" in line and " left" in line for line in said) == 2
    assert "measuring" in (tmp_path / "logs" / f"{cells[0].key}.txt").read_text()
    said.clear()
    assert run_all([cells[0]], command, log=log, work=tmp_path, jobs=2, say=said.append) == []
    assert said == ["0 of 1 cells are to be measured, 2 at a time"]


def test_the_time_left_is_what_such_cells_took(tmp_path: Path) -> None:
    data = small_set(tmp_path)
    cells = [Cell(data, 0, 0, name) for name in ("clip", "clip", "scratch")]
    rows = [row("clip", {"m": [1, 0]}, seconds={"all": s}, key=str(s)) for s in (100.0, 300.0)]
    assert seconds_left(cells, rows, 2) == pytest.approx((200 + 200 + 200) / 2)
    assert seconds_left(cells, [], 2) is None
    assert [duration(s) for s in (12, 240, 12_000)] == ["12 s", "4 min", "3 h 20 min"]
