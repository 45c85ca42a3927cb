"""The log of cells survives kills, and writers that know nothing of each other."""

import subprocess
import sys
from pathlib import Path

from bench.parts.method.journal import append, read


def test_rows_come_back_in_order_and_a_cell_counts_once(tmp_path: Path) -> None:
    log = tmp_path / "results" / "log.jsonl"
    assert read(log) == []
    rows = [{"key": "a", "x": 1}, {"key": "b", "x": 2}]
    for row in [*rows, {"key": "a", "x": 3}]:
        append(log, row)
    assert read(log) == rows
    assert len(log.read_text().splitlines()) == 3


def test_a_line_that_a_kill_cut_short_costs_itself_alone(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    append(log, {"key": "a"})
    append(log, {"key": "b"})
    log.write_bytes(log.read_bytes()[:-5])
    assert read(log) == [{"key": "a"}]
    append(log, {"key": "c"})
    assert read(log) == [{"key": "a"}, {"key": "c"}]


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    code = (
        "import sys; from pathlib import Path; from bench.parts.method.journal import append\n"
        "log, name = Path(sys.argv[1]), sys.argv[2]\n"
        "for i in range(50): append(log, {'key': f'{name}-{i}', 'x': 'y' * 5000})"
    )
    command = [sys.executable, "-c", code, str(log)]
    writers = [subprocess.Popen([*command, name]) for name in ("one", "two")]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert {row["key"] for row in read(log)} == {
        f"{n}-{i}" for n in ("one", "two") for i in range(50)
    }
