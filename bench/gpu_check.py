"""Everything that only a GPU can show, in one command: `make gpu-check`.

    python -m bench.gpu_check [--out FOLDER]

Compiles every kernel ahead of time for sm_80, sm_90 and sm_100, which needs no GPU and takes
minutes on few cores, seconds if Triton's cache has them. With a GPU it then runs the tests marked
`gpu` and the benchmarks, under limits that add up to less than ten minutes, and writes results and
summary.json to FOLDER. Without a GPU it says so after the compilation and exits 0.
"""

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a file
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from bench.parts.results import Row, describe_machine, write_json


@dataclass(frozen=True)
class Check:
    """One command of the check; `{out}` in it stands for the folder of results."""

    name: str
    arguments: tuple[str, ...]
    limit_seconds: int
    needs_gpu: bool = True


CHECKS = (
    Check("compile", ("-m", "bench.kernels", "--out", "{out}"), 480, False),
    Check("doctor", ("-m", "fastdual", "doctor", "--json"), 30),
    Check("tests", ("-m", "pytest", "-q", "-m", "gpu", "--timeout=120"), 150),
    Check("losses", ("-m", "bench.losses", "--rows", "128", "1024", "16384", "--dims", "128",
                     "--out", "{out}/losses_cuda"), 90),
    Check("train", ("-m", "bench.train", "--backbones", "r2plus1d", "--batch", "16",
                    "--repeats", "8", "--out", "{out}/train_cuda"), 120),
    Check("loader", ("-m", "bench.loader", "--videos", "8", "--repeats", "1",
                     "--out", "{out}/loader_cuda"), 120),
)  # fmt: skip


def run_check(check: Check, out: Path) -> Row:
    """Run one command with its output in OUT/NAME.log; return how it ended."""
    command = [sys.executable, *(part.format(out=out) for part in check.arguments)]
    environment = {**os.environ, "FASTDUAL_REQUIRE_GPU": "1"} if check.needs_gpu else None
    start = time.monotonic()
    with (out / f"{check.name}.log").open("w") as log:
        try:
            code = subprocess.run(
                command, stdout=log, stderr=log, env=environment, timeout=check.limit_seconds
            ).returncode
            note = "" if code == 0 else f"exit code {code}"
        except subprocess.TimeoutExpired:
            note = f"not done after {check.limit_seconds} s"
    seconds = round(time.monotonic() - start, 1)
    return {"name": check.name, "passed": not note, "seconds": seconds, "note": note}


def main() -> int:
    """Run the checks that this machine can run; return 0 if all passed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/gpu-check"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    has_gpu = torch.cuda.is_available()
    outcomes = []
    for check in CHECKS:
        if check.needs_gpu and not has_gpu:
            continue
        print(f"{check.name} ...", flush=True)
        outcome = run_check(check, out)
        outcomes.append(outcome)
        note = outcome["note"]
        verdict = f"FAILED: {note}; {out / check.name}.log" if note else "ok"
        print(f"{check.name}: {verdict} ({outcome['seconds']} s)", flush=True)
    machine = describe_machine(torch.device("cuda" if has_gpu else "cpu"))
    write_json({"machine": machine, "checks": outcomes}, out / "summary.json")
    if not has_gpu:
        left = ", ".join(check.name for check in CHECKS if check.needs_gpu)
        print(f"no CUDA device here: only the compilation was checked; left for one: {left}")
    return int(not all(outcome["passed"] for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
