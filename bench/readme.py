"""The tables of docs/benchmarks.md and the README's figure, from committed results.

    python -m bench.readme [--check]

Writes between the marks of that page, and docs/images/measured.svg; with --check it exits 1 if they
differ.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

if not __package__:  # run as a file
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench.parts.markdown import between_marks
from bench.parts.method import journal
from bench.parts.method.summary import conclude
from bench.parts.readme.figure import figure
from bench.parts.readme.speed import speed
from bench.parts.results import RESULTS
from fastdual.loaders import files

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE, FIGURE = DOCS / "benchmarks.md", DOCS / "images" / "measured.svg"
_SHOWN = ("finetuned_100", "finetuned_30", "finetuned_10", "probe", "moved_rank")


def method(results: Path) -> str:
    """Return what the log of bench.method says so far: figure, tables and sentences."""
    rows = journal.read(results / "method.jsonl")
    if not any("finetuned_100" in row["answers"] for row in rows):
        return "No contestant of the comparison has been fine-tuned to the end yet."
    said = conclude(rows, _SHOWN)
    return f"![fine-tuned accuracy by share of the labels](../bench/results/method.png)\n\n{said}"


SECTIONS: dict[str, Callable[[Path], str]] = {
    "speed": speed,
    "method": method,
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
    drawn = figure(RESULTS)
    if not options.check:
        files.write(PAGE, wanted, "the benchmarks")
        files.write(FIGURE, drawn, "the figure")
    elif wanted != page or drawn != FIGURE.read_text():
        raise SystemExit(
            f"docs/{PAGE.name} or docs/images/{FIGURE.name} is not what python -m bench.readme "
            "makes; run it"
        )


if __name__ == "__main__":
    main()
