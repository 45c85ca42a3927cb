"""The README's table of what the method reaches, made from the committed results.

    python -m bench.method_readme [--check]

Writes between the two marks in README.md; with --check it exits 1 where they differ.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from bench.common import RESULTS, Row
from bench.method_summary import MEASURES, compare, describe, markdown
from bench.method_tables import FULL, PLAIN, tables

README = Path(__file__).resolve().parent.parent / "README.md"
_START = "<!-- made by python -m bench.method_readme from bench/results/method.json -->"
_END = "<!-- end of what bench.method_readme made -->"
_SHOWN = ("r1", "probe_top1", "moved_rank_accuracy", "variance_ratio")


def text(rows: Sequence[Row]) -> str:
    """Of each data set the table of the longest training, and a sentence on each of the others."""
    measures = [measure for measure in MEASURES if measure[0] in _SHOWN]
    parts: list[str] = []
    shown: set[str] = set()
    for table in tables(rows):
        verdicts = [compare(table, FULL, rival, "r1") for rival in table.labels_of(PLAIN)]
        if table.data in shown:
            parts += [f"{table.name}: {verdict}" for verdict in verdicts if verdict]
        else:
            parts += [f"{describe(table)}.", markdown(table, measures)]
            parts.append("\n".join(verdict for verdict in verdicts if verdict))
        shown.add(table.data)
    return "\n\n".join(part for part in parts if part)


def updated(readme: str, rows: Sequence[Row]) -> str:
    """The README with the table of these rows between its marks."""
    before, _, rest = readme.partition(_START)
    _, mark, after = rest.partition(_END)
    if not mark:
        raise ValueError(f"README.md lacks the marks {_START} and {_END}")
    return f"{before}{_START}\n{text(rows)}\n{_END}{after}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Bring the README up to date, or say that it is not."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(arguments)
    readme = README.read_text()
    wanted = updated(readme, json.loads((RESULTS / "method.json").read_text()))
    if options.check and wanted != readme:
        raise SystemExit("README.md is not what python -m bench.method_readme makes; run it")
    if not options.check:
        README.write_text(wanted)


if __name__ == "__main__":
    main()
