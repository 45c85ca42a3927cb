"""A short pretraining from a pack, by the command that users run: a job of bench.gpu_check.

    python -m bench.parts.gpu_check.learn --data PACK --out PATH

Its loss has to fall and its rank accuracy to rise. One row per reading, copied from the run's log
while it trains.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from bench.parts.results import Row, Table, describe_machine

_READ_SECONDS = 0.5


def readings(log: Path) -> Iterator[Row]:
    """Yield the readings that a run has logged so far; a line that is being written is left out."""
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    for line in map(json.loads, lines):
        if line["event"] == "train":
            yield line


def command_of(options: argparse.Namespace, run: Path) -> list[str]:
    """Return the command that trains."""
    settings = ("run.device=auto", f"schedule.epochs={options.epochs}", *options.set)
    command = [sys.executable, "-m", "fastdual", "pretrain", str(options.data)]
    command += ["--run", str(run), "--recipe", "tiny", "--resume"]
    return [*command, *(word for setting in settings for word in ("--set", setting))]


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a pack")
    parser.add_argument("--out", type=Path, required=True, help="results without extension")
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="of the recipe")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Train, and copy the readings; return the exit code of the training."""
    options = parse(words)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    machine, table = describe_machine(device), Table(options.out)
    run = options.out.with_name(f"{options.out.name}_run")
    process = subprocess.Popen(command_of(options, run))
    try:
        ended = False
        while not ended:
            ended = process.poll() is not None
            for reading in list(readings(run / "log.jsonl"))[len(table.rows) :]:
                table.add(reading | machine)
            time.sleep(0 if ended else _READ_SECONDS)
    finally:
        if process.poll() is None:
            process.terminate()
    return process.wait()


if __name__ == "__main__":
    sys.exit(main())
