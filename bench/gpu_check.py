"""Everything that only a GPU can show, in stages of less than eight minutes.

    python -m bench.gpu_check --stage kernels|step|decode|contention|learn --out FOLDER

Runs in a checkout that is not installed, without network, and without DALI and PyAV where a job
needs neither. Results are on disk row by row, so that what is cut off loses one row; the same
command again does what was not done. It ends with one screen: what ran, what did not and why, and
the numbers against what was aimed at. docs/gpu.md says how to prepare a visit, and --rehearse runs
every job of a stage at a tiny size on a CPU.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from bench.parts.gpu_check.jobs import STAGES
from bench.parts.gpu_check.run import Visit, run_stage
from bench.parts.gpu_check.screen import screen
from bench.parts.results import describe_machine


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a stage; return 0 if every job that could run ended well."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--stage", choices=STAGES, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument(
        "--bundle", type=Path, default=Path("build/gpu-bundle"),
        help="what bench.gpu_bundle --unpack wrote  [default: build/gpu-bundle]",
    )  # fmt: skip
    parser.add_argument("--rehearse", action="store_true", help="tiny, on a CPU")
    options = parser.parse_args(arguments)
    if not (options.rehearse or torch.cuda.is_available()):
        parser.error("there is no CUDA device here; --rehearse runs the stage tiny, on a CPU")
    visit = Visit(options.out.absolute(), options.bundle.absolute(), options.rehearse)
    visit.out.mkdir(parents=True, exist_ok=True)
    if visit.site:
        sys.path.append(str(visit.site))
    machine = describe_machine(torch.device("cpu" if visit.rehearse else "cuda"))
    endings = run_stage(options.stage, STAGES[options.stage], visit)
    text = screen(options.stage, endings, visit.out, machine)
    (visit.out / f"{options.stage}.txt").write_text(text + "\n")
    print(text)
    return int(any(row["outcome"] in ("failed", "cut off") for row in endings))


if __name__ == "__main__":
    sys.exit(main())
