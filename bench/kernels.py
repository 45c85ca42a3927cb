"""What every kernel costs on sm_80, sm_90 and sm_100, compiled here without a GPU.

    python -m bench.kernels [--fresh] [--jobs N] [--out FOLDER]

Writes bench/results/kernels_aot.csv: registers, spills, shared memory and thread blocks per
multiprocessor of every kernel in every tile. The tiles were chosen by this table. A row of the
committed table stays if the kernel's source, its launch and Triton are the same; --fresh compiles
all of them.
"""

import argparse
import csv
import os
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

if not __package__:  # run as a file
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import triton

from bench.parts.kernels.cases import table_cases
from bench.parts.kernels.compile import Launch, compile_launch
from bench.parts.results import RESULTS, Row, to_csv
from fastdual.loaders import files

ARCHITECTURES = (80, 90, 100)
TABLE = RESULTS / "kernels_aot.csv"
COSTS = ("registers", "spilled_bytes", "shared_bytes", "blocks_per_multiprocessor")

Key = tuple[str, str]  # a launch's digest, and the architecture


def compile_case(number: int) -> list[Row]:
    """Return the rows of the case of that number, one per architecture. Runs in a worker."""
    case, launch = list(table_cases())[number]
    rows = []
    for architecture in ARCHITECTURES:
        usage = compile_launch(launch, architecture)
        costs = {name: getattr(usage, name) for name in COSTS} | {"triton": triton.__version__}
        rows.append(describe(case, launch, architecture, costs))
    return rows


def describe(case: str, launch: Launch, architecture: int, costs: Row) -> Row:
    """Return the row of one launch on one architecture."""
    return {
        "kernel": launch.name,
        "case": case,
        "blocks": launch.blocks,
        "num_warps": launch.num_warps,
        "num_stages": launch.num_stages,
        "max_registers": launch.max_registers or "",
        "architecture": f"sm_{architecture}",
        **costs,
        "digest": launch.digest,
    }


def known_costs(table: Iterable[Row], triton_version: str) -> dict[Key, Row]:
    """Return what a table knows about launches compiled by this version of Triton."""
    return {
        (row["digest"], row["architecture"]): {name: row[name] for name in (*COSTS, "triton")}
        for row in table
        if row["triton"] == triton_version and "digest" in row
    }


def table_rows(known: dict[Key, Row], jobs: int) -> list[Row]:
    """Return the rows of all cases in order; what is not known is compiled by so many jobs."""
    cases = list(table_cases())
    missing = [
        number
        for number, (_, launch) in enumerate(cases)
        if any((launch.digest, f"sm_{name}") not in known for name in ARCHITECTURES)
    ]
    compiled: dict[int, list[Row]] = {}
    with ProcessPoolExecutor(jobs) as pool:
        for number, found in zip(missing, pool.map(compile_case, missing), strict=True):
            compiled[number] = found
            print(f"{len(compiled)}/{len(missing)} {found[0]['kernel']}", file=sys.stderr)
    rows = []
    for number, (case, launch) in enumerate(cases):
        rows += compiled.get(number) or [
            describe(case, launch, architecture, known[launch.digest, f"sm_{architecture}"])
            for architecture in ARCHITECTURES
        ]
    print(f"{len(missing)} of {len(cases)} launches compiled, the others kept")
    return rows


def main() -> None:
    """Compile, write the table, and name the cases that spill."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of kernels_aot.csv")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="number of compilers")
    parser.add_argument("--fresh", action="store_true", help="compile also what the table knows")
    arguments = parser.parse_args()
    known: dict[Key, Row] = {}
    if TABLE.exists() and not arguments.fresh:
        with TABLE.open(newline="") as file:
            known = known_costs(csv.DictReader(file), triton.__version__)
    rows = table_rows(known, arguments.jobs)
    path = arguments.out / TABLE.name
    files.write(path, to_csv(rows), "the table")
    spilling = sorted({row["case"] for row in rows if int(row["spilled_bytes"])})
    print(f"{len(rows)} rows in {path}; cases that spill: {', '.join(spilling) or 'none'}")


if __name__ == "__main__":
    main()
