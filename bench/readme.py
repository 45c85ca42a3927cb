"""The tables of docs/benchmarks.md, from committed results: speed, and what the method reaches.

    python -m bench.readme [--check]

Writes between the marks of that page; with --check it exits 1 if they differ.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

if not __package__:  # run as a file
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench.parts.markdown import between_marks
from bench.parts.method.summary import MEASURES, compare, describe, markdown
from bench.parts.method.tables import FULL, PLAIN, tables
from bench.parts.readme.speed import speed
from bench.parts.results import RESULTS, Row, read_rows
from fastdual.loaders import files

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
_SHOWN = ("r1", "probe_top1", "moved_rank_accuracy", "variance_ratio")


def method(rows: Sequence[Row]) -> str:
    """Return the table of the longest training per data set, and sentences on the other ones."""
    measures = [measure for measure in MEASURES if measure[0] in _SHOWN]
    parts: list[str] = []
    shown: set[str] = set()
    for table in tables(rows):
        verdicts = [compare(table, FULL, other, "r1") for other in table.labels_of(PLAIN)]
        if table.data in shown:
            parts += [f"{table.name}: {verdict}" for verdict in verdicts if verdict]
        else:
            parts += [f"{describe(table)}.", markdown(table, measures)]
            parts.append("\n".join(verdict for verdict in verdicts if verdict))
        shown.add(table.data)
    return "\n\n".join(part for part in parts if part)


SECTIONS: dict[str, Callable[[Path], str]] = {
    "speed": speed,
    "method": lambda results: method(read_rows(results / "method.json")),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Update the page, or fail if it is not current."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(arguments)
    page = wanted = PAGE.read_text()
    for name, make in SECTIONS.items():
        marks = f"<!-- {name}: made by python -m bench.readme -->", f"<!-- end of {name} -->"
        wanted = between_marks(wanted, marks, make(RESULTS))
    if options.check and wanted != page:
        raise SystemExit("docs/benchmarks.md is not what python -m bench.readme makes; run it")
    if not options.check:
        files.write(PAGE, wanted, "the benchmarks")


if __name__ == "__main__":
    main()
