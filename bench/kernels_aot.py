"""What every kernel costs on sm_80, sm_90 and sm_100, compiled here without a GPU.

`python -m bench.kernels_aot` writes bench/results/kernels_aot.csv: registers, spills, shared memory
and thread blocks a multiprocessor of every kernel in every tile. The tiles were chosen by this
table.
"""

import argparse
import csv
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from bench.common import RESULTS, Row

ARCHITECTURES = (80, 90, 100)


def compile_case(number: int) -> list[Row]:
    """Rows of the case of that number, one an architecture; runs in a process of its own."""
    import triton

    from fastdual.kernels import aot

    name, launch = list(aot.table_cases())[number]
    rows = []
    for architecture in ARCHITECTURES:
        usage = aot.compile_launch(launch, architecture)
        rows.append(
            {
                "kernel": launch.name,
                "case": name,
                "blocks": launch.blocks,
                "num_warps": launch.num_warps,
                "num_stages": launch.num_stages,
                "architecture": f"sm_{architecture}",
                "registers": usage.registers,
                "spilled_bytes": usage.local_bytes,
                "shared_bytes": usage.shared_bytes,
                "blocks_per_multiprocessor": usage.blocks_per_multiprocessor,
                "triton": triton.__version__,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of kernels_aot.csv")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="compilers at a time")
    arguments = parser.parse_args()
    from fastdual.kernels import aot

    numbers = range(len(list(aot.table_cases())))
    rows: list[Row] = []
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for number, found in enumerate(pool.map(compile_case, numbers)):
            print(f"{number + 1}/{len(numbers)} {found[0]['kernel']}", file=sys.stderr)
            rows += found
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "kernels_aot.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    spilling = sorted({row["case"] for row in rows if row["spilled_bytes"]})
    print(f"{len(rows)} rows in {path}; cases that spill: {', '.join(spilling) or 'none'}")


if __name__ == "__main__":
    main()
