"""What every kernel costs on sm_80, sm_90 and sm_100, compiled here without a GPU.

    python -m bench.kernels [--fresh] [--jobs N] [--out FOLDER]

Writes bench/results/kernels_aot.csv: of every kernel in every tile, what its machine code needs
(registers, spills, shared memory, thread blocks per multiprocessor) and what its inner loop does
per warp and tile of negatives: instructions, MUFU, barriers, accesses to shared memory, kind of
matrix instruction, and how many warps do the same product. `estimated_peak` follows from a model of
what a multiprocessor issues: the share of the tensor cores' peak if products and the rest take
turns, and if they overlap. It is an estimate, no measurement. The tiles were chosen by this table.
A row of the committed table stays if the kernel's source, its launch and Triton are the same;
--fresh compiles all of them.
"""

import argparse
import csv
import functools
import os
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

if not __package__:  # run as a file
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import triton

from bench.parts.kernels.cases import table_cases
from bench.parts.kernels.compile import Launch, Usage, compile_launch
from bench.parts.results import RESULTS, Row, to_csv
from fastdual.loaders import files

ARCHITECTURES = (80, 90, 100)
TABLE = RESULTS / "kernels_aot.csv"
COSTS = (
    "registers", "spilled_bytes", "shared_bytes", "blocks_per_multiprocessor",
    "instructions", "instructions_per_logit", "mufu", "barriers", "shared_accesses", "matrix",
    "replication", "estimated_peak",
)  # fmt: skip

Key = tuple[str, str]  # a launch's digest, and the architecture


@functools.cache
def all_cases() -> list[tuple[str, Launch, int]]:
    """Return the name, the launch and the architecture of every row of the table."""
    return [
        (case, launch, architecture)
        for architecture in ARCHITECTURES
        for case, launch in table_cases(architecture)
    ]


def compile_case(number: int) -> Row:
    """Return the row of that number. Runs in a worker."""
    case, launch, architecture = all_cases()[number]
    return describe(case, launch, architecture, costs_of(compile_launch(launch, architecture)))


def costs_of(usage: Usage) -> Row:
    """Return the columns of COSTS, and the version of Triton that they are true of."""
    low, high = usage.peak_shares
    loop = usage.loop
    values = (
        usage.registers, usage.spilled_bytes, usage.shared_bytes, usage.blocks_per_multiprocessor,
        loop.instructions, round(usage.instructions_per_logit, 1), loop.mufu, loop.barriers,
        loop.shared, loop.matrix, usage.replication, f"{low:.0%} to {high:.0%}" if high else "",
    )  # fmt: skip
    return dict(zip(COSTS, values, strict=True)) | {"triton": triton.__version__}


def describe(case: str, launch: Launch, architecture: int, costs: Row) -> Row:
    """Return the row of one launch on one architecture."""
    return {
        "kernel": launch.name,
        "case": case,
        "blocks": launch.blocks,
        "num_warps": launch.num_warps,
        "num_stages": launch.num_stages,
        "architecture": f"sm_{architecture}",
        **costs,
        "digest": launch.digest,
    }


def known_costs(table: Iterable[Row], triton_version: str) -> dict[Key, Row]:
    """Return what a table knows about launches compiled by this version of Triton."""
    return {
        (row["digest"], row["architecture"]): {name: row[name] for name in (*COSTS, "triton")}
        for row in table
        if row["triton"] == triton_version and {"digest", *COSTS} <= set(row)
    }


def table_rows(known: dict[Key, Row], jobs: int) -> list[Row]:
    """Return the rows of all cases in order; what is not known is compiled by so many jobs."""
    cases = all_cases()
    rows = {
        number: describe(case, launch, architecture, known[launch.digest, f"sm_{architecture}"])
        for number, (case, launch, architecture) in enumerate(cases)
        if (launch.digest, f"sm_{architecture}") in known
    }
    missing = [number for number in range(len(cases)) if number not in rows]
    with ProcessPoolExecutor(jobs) as pool:
        for count, row in enumerate(pool.map(compile_case, missing), start=1):
            rows[missing[count - 1]] = row
            print(f"{count}/{len(missing)} {row['kernel']} {row['case']}", file=sys.stderr)
    print(f"{len(missing)} of {len(cases)} compiled, the others kept")
    return [rows[number] for number in range(len(cases))]


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
