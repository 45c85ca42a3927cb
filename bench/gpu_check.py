"""Everything that only a GPU can show, in one command: `make gpu-check`.

    python -m bench.gpu_check [--out FOLDER]

Compiles every kernel ahead of time for sm_80, sm_90 and sm_100, which needs no GPU and takes
minutes on few cores, seconds where Triton's cache has them. With a GPU, runs the tests marked `gpu`
and the benchmarks, under limits that add up to less than ten minutes, and writes their results and
summary.json to FOLDER. Without one it says so after the compilation and exits 0.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from bench.parts.results import describe_machine


@dataclass(frozen=True)
class Check:
    """One command of the check; `{out}` in it stands for the folder of results."""

    name: str
    arguments: tuple[str, ...]
    limit_seconds: int
    needs_gpu: bool = True


@dataclass(frozen=True)
class Outcome:
    """How a check ended."""

    name: str
    passed: bool
    seconds: float
    note: str


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


def run_check(check: Check, out: Path) -> Outcome:
    """Run one command with its output in OUT/NAME.log; a failure ends nothing else."""
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
    return Outcome(check.name, not note, round(time.monotonic() - start, 1), note)


def main() -> int:
    """Run the checks of this machine; the exit code says whether all passed."""
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
        verdict = "ok" if outcome.passed else f"FAILED: {outcome.note}; {out / check.name}.log"
        print(f"{check.name}: {verdict} ({outcome.seconds} s)", flush=True)
    machine = describe_machine(torch.device("cuda" if has_gpu else "cpu"))
    summary = {"machine": machine, "checks": [asdict(outcome) for outcome in outcomes]}
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    if not has_gpu:
        left = ", ".join(check.name for check in CHECKS if check.needs_gpu)
        print(f"no CUDA device here: only the compilation was checked; left for one: {left}")
    return 0 if all(outcome.passed for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
