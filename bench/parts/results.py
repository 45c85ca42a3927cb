"""Results of benchmarks: rows as CSV and JSON, and the machine on which they were measured."""

import csv
import io
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from fastdual.loaders import files

RESULTS = Path(__file__).resolve().parents[1] / "results"

Row = dict[str, Any]


def describe_machine(device: torch.device) -> dict[str, str]:
    """Return the columns that every row carries: device, driver, versions, commit and date."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else _cpu_name(),
        "threads": "" if cuda else str(torch.get_num_threads()),
        "driver": _first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        # Where only the files were copied, whoever copied them says which they are.
        "commit": _first_line("git", "describe", "--always", "--dirty", "--exclude=*")
        or os.environ.get("FASTDUAL_COMMIT", ""),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _first_line(*command: str) -> str:
    """Return the first line that a command prints, "" if it is missing or fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=RESULTS.parent, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout else ""


def to_csv(rows: Sequence[Row]) -> str:
    """Return a table of CSV; its columns are those of all rows in order of first appearance."""
    text = io.StringIO()
    columns = list(dict.fromkeys(column for row in rows for column in row))
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """Write PATH.csv and PATH.json, each atomically."""
    files.write(path.with_suffix(".csv"), to_csv(rows), "the results")
    write_json(rows, path.with_suffix(".json"))


def write_json(content: object, path: Path) -> None:
    """Write a file of JSON atomically."""
    files.write(path, json.dumps(content, indent=1) + "\n", "the results")


class Table:
    """Rows of PATH.csv and PATH.json; each is on disk as soon as it is added.

    A run that is killed loses the row that it was measuring, and one that continues finds the
    others.

    Args:
        path: The files without their extensions.
        keep: Begin with the rows that are there.
    """

    def __init__(self, path: Path, *, keep: bool = False) -> None:
        self.path = path
        self.rows = read_rows(path.with_suffix(".json")) if keep else []

    def add(self, row: Row) -> None:
        self.rows.append(row)
        write_rows(self.rows, self.path)

    def has(self, **facts: object) -> bool:
        """Return whether there is a row of these values."""
        return any(facts.items() <= row.items() for row in self.rows)

    def drop(self, **facts: object) -> None:
        """Forget the rows of these values; they leave the disk with the next row that is added."""
        self.rows = [row for row in self.rows if not facts.items() <= row.items()]


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file of JSON, none if the file is missing."""
    rows: list[Row] = json.loads(path.read_text()) if path.exists() else []
    return rows
