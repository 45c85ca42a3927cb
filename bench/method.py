"""Does the method do what its paper says? Fine-tuned after each objective, and from scratch.

    python -m bench.method --data ../shared/data [--sets mlr511 ...] [--seeds 5] [--jobs 2]
    python -m bench.method --data ../shared/data --search     # the settings of each contestant
    python -m bench.method --summary                          # tables and figure of the log alone

Every contestant is pretrained without labels on the training groups of a fold, then fine-tuned with
10, 30 and 100 % of the labels, and tested by ten clips on groups (signers, speakers) that it never
saw. FOLDER holds NAME.csv (path,label,group) and the videos of each set. Baselines that see only
pixels are measured too.

It may be stopped at any time and started again, on another machine as well: each cell (contestant,
fold, seed) is a line of results/method.jsonl once it is measured, and a stopped cell goes on from
its last checkpoint. Settings, grid and the order of the cells stand in bench/parts/method. A
complete search, judged on training groups alone, decides the settings of the cells after it.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench.parts.method import contestants as c
from bench.parts.method.cells import Cell, schedule, search
from bench.parts.method.data import SETS, check_overlaps, data_sets, fold_of
from bench.parts.method.jobs import run_all
from bench.parts.method.journal import append, read
from bench.parts.method.measure import measure
from bench.parts.method.summary import conclude, draw
from bench.parts.results import RESULTS
from fastdual.loaders import files


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the cells that are missing, then write the figure and the conclusion."""
    options = _parse(arguments)
    log, work = options.out.with_suffix(".jsonl"), options.work
    failed: list[Cell] = []
    if options.data is not None:
        cells = _cells(options)
        if options.cell is not None:
            cell = next((cell for cell in cells if cell.key == options.cell), None)
            if cell is None:
                raise SystemExit("a search has changed the settings: start the command again")
            index = cell.data.open(work / "packs")
            append(log, measure(cell, index, work, workers=options.workers))
            return
        for data in {cell.data.name: cell.data for cell in cells}.values():
            index = data.open(work / "packs")  # packed and checked once, before the cells
            check_overlaps(fold_of(index, data, 0, search=False))
        command = [*_repeated(options), "--cell"]
        failed = run_all(
            cells, lambda cell: [*command, cell.key], log=log, work=work, jobs=options.jobs
        )
    _summarise(options.out, log)
    if failed:
        raise SystemExit(f"{len(failed)} cells failed, first {failed[0]}; see {work / 'logs'}")


def _summarise(out: Path, log: Path) -> None:
    rows = read(log)
    if any(not row["search"] for row in rows):
        text = conclude(rows)
        files.write(out.with_suffix(".txt"), text + "\n", "the conclusion")
        draw(rows, out.with_suffix(".png"))
        print(text)


def _cells(options: argparse.Namespace) -> list[Cell]:
    sets = data_sets(options.data, options.sets)
    if options.search:
        pairs = itertools.product(sets, options.contestants)
        return [cell for data, name in pairs for cell in search(data, name)]
    rows = read(options.out.with_suffix(".jsonl"))
    return schedule(sets, options.seeds, rows, options.contestants)


def _repeated(options: argparse.Namespace) -> list[str]:
    """Return the command line of a process that measures one of the cells."""
    words = ["-m", "bench.method", "--data", str(options.data), "--sets", *options.sets]
    words += ["--contestants", *options.contestants, "--seeds", str(options.seeds)]
    words += ["--out", str(options.out), "--work", str(options.work)]
    words += ["--workers", str(options.workers)]
    return [*words, "--search"] if options.search else words


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", type=Path, metavar="FOLDER", help="where the sets lie")
    what.add_argument("--summary", action="store_true", help="measure nothing")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=[*SETS], metavar="NAME")
    parser.add_argument(
        "--contestants", nargs="+", choices=c.CONTESTANTS, default=[*c.CONTESTANTS], metavar="NAME"
    )
    parser.add_argument("--seeds", type=int, default=5, help="of every fold")
    parser.add_argument("--search", action="store_true", help="judge the grid of settings instead")
    parser.add_argument("--jobs", type=int, default=2, help="cells at a time, one core each")
    parser.add_argument("--workers", type=int, default=1, help="decoding processes of a cell")
    parser.add_argument("--out", type=Path, default=RESULTS / "method")
    parser.add_argument("--work", type=Path, default=Path("build/bench-method"))
    parser.add_argument("--cell", metavar="KEY", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if min(options.seeds, options.jobs, options.workers) < 1:
        parser.error("--seeds, --jobs and --workers must be at least 1")
    return options


if __name__ == "__main__":
    main()
