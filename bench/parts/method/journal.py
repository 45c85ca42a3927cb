"""The log of measured cells: one line of JSON each, on the disk before the next cell begins.

Lines are only ever added, so that a log which was made on several machines, or in several runs that
were killed, is what a single run would have made.
"""

import json
import os
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def append(path: Path, row: Row) -> None:
    """Add a row, and wait until the disk has it; several processes may do so at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(row, sort_keys=True, separators=(",", ":")) + "\n"
    # One write at the end of the file; a line that a kill cut short is ended first.
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(file).st_size
        cut = size > 0 and os.pread(file, 1, size - 1) != b"\n"
        os.write(file, (("\n" if cut else "") + line).encode())
        os.fsync(file)
    finally:
        os.close(file)


def read(path: Path) -> list[Row]:
    """Return the rows in order; lines that were cut short are left out, as are repeated cells."""
    rows: dict[str, Row] = {}
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows.setdefault(row["key"], row)
    return list(rows.values())
