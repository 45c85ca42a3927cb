"""What every kernel costs on sm_80, sm_90 and sm_100, compiled here without a GPU.

`python -m bench.kernels` writes bench/results/kernels_aot.csv: registers, spills, shared memory
and thread blocks a multiprocessor of every kernel in every tile. The tiles were chosen by this
table. Rows of the committed table stay where neither the kernel's source, nor its launch, nor
Triton has changed; --fresh compiles them all.
"""

import argparse
import csv
import os
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from bench.parts.results import RESULTS, Row

if TYPE_CHECKING:
    from bench.parts.kernels.compile import Launch

ARCHITECTURES = (80, 90, 100)
TABLE = RESULTS / "kernels_aot.csv"
# What a row says of a compiled kernel, and under which version of Triton: all that stays of it.
COSTS = ("registers", "spilled_bytes", "shared_bytes", "blocks_per_multiprocessor", "triton")

Key = tuple[str, str]  # a launch's digest, and the architecture


def compile_case(number: int) -> list[Row]:
    """Rows of the case of that number, one an architecture; runs in a process of its own."""
    import triton

    from bench.parts.kernels import cases as aot_cases
    from bench.parts.kernels import compile as aot

    case, launch = list(aot_cases.table_cases())[number]
    rows = []
    for architecture in ARCHITECTURES:
        usage = aot.compile_launch(launch, architecture)
        costs = (
            usage.registers,
            usage.local_bytes,
            usage.shared_bytes,
            usage.blocks_per_multiprocessor,
            triton.__version__,
        )
        rows.append(describe(case, launch, architecture, dict(zip(COSTS, costs, strict=True))))
    return rows


def describe(case: str, launch: "Launch", architecture: int, costs: Row) -> Row:
    """The row of one launch on one architecture."""
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
    """What a table knows of launches compiled by this version of Triton."""
    return {
        (row["digest"], row["architecture"]): {name: row[name] for name in COSTS}
        for row in table
        if row["triton"] == triton_version and "digest" in row
    }


def table_rows(known: dict[Key, Row], jobs: int) -> list[Row]:
    """Rows of all cases in their order; what is not known is compiled."""
    from bench.parts.kernels import cases as aot_cases

    cases = list(aot_cases.table_cases())
    wanted = [f"sm_{architecture}" for architecture in ARCHITECTURES]
    missing = [
        number
        for number, (_, launch) in enumerate(cases)
        if any((launch.digest, name) not in known for name in wanted)
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of kernels_aot.csv")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="compilers at a time")
    parser.add_argument("--fresh", action="store_true", help="compile what the table knows, too")
    arguments = parser.parse_args()
    import triton

    known: dict[Key, Row] = {}
    if TABLE.exists() and not arguments.fresh:
        with TABLE.open(newline="") as file:
            known = known_costs(csv.DictReader(file), triton.__version__)
    rows = table_rows(known, arguments.jobs)
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / TABLE.name
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    spilling = sorted({row["case"] for row in rows if int(row["spilled_bytes"])})
    print(f"{len(rows)} rows in {path}; cases that spill: {', '.join(spilling) or 'none'}")


if __name__ == "__main__":
    main()
