"""What a checkpoint costs a run: how long it delays a step, and how much writing slows the steps.

    python -m bench.checkpoints [--backbones r2plus1d] [--rounds 10] [--out PATH]

In turns: quiet steps; a checkpoint written beside the steps, as `fastdual pretrain` does, with
steps until it is on the disk; and one written within a step, for comparison. Steps are real ones on
random clips, the state is that of a real run (weights, momentum), and the file is fsynced. On a CPU
the writer takes cores from the steps; such figures say nothing about a GPU.
"""

import argparse
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

if not __package__:  # run as a file
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from bench.parts.results import RESULTS, Row, describe_machine, write_rows
from bench.parts.train.case import Case, Size
from bench.parts.train.contestants import Contestant
from fastdual.config.sections import RunConfig
from fastdual.run.checkpoint import Kept, checkpoint_path, save_checkpoint
from fastdual.run.folder import RunFolder

QUIET_STEPS, WARMUP_STEPS = 6, 3
INTERVAL_STEPS = RunConfig().checkpoint_every_steps


class Costs:
    """A run that trains and saves, and the seconds that each takes."""

    def __init__(self, case: Case, folder: Path) -> None:
        self._device = case.device
        self._contestant = Contestant("ours", case)
        self._folder = RunFolder(folder)
        self._folder.checkpoints.mkdir(parents=True)
        for _ in range(WARMUP_STEPS):
            self.step()

    def step(self) -> float:
        """Return the seconds of a step, its work on the device included."""
        return self._timed(self._contestant.step)

    def save_within(self) -> float:
        """Return the seconds of a checkpoint for which the step waits."""
        path = checkpoint_path(self._folder.checkpoints, 0)
        return self._timed(lambda: save_checkpoint(path, self.state()))

    def save_beside(self) -> tuple[float, float, list[float]]:
        """Return the seconds of delay, of the writing, and of each step taken meanwhile."""
        written = threading.Event()
        started = time.perf_counter()
        self._folder.save(self.state(), keep=Kept(1), written=lambda _: written.set())
        held, steps = time.perf_counter() - started, []
        while not written.is_set():
            self._folder.writer.check()  # or a failure would be waited for without end
            steps.append(self.step())
        taken = time.perf_counter() - started
        self._folder.writer.wait()
        return held, taken, steps

    def state(self) -> Row:
        """Return what a run's checkpoint holds, except for its texts."""
        training = self._contestant.training
        parts = {name: getattr(training, name) for name in ("model", "objective", "optimiser")}
        state = {name: part.state_dict() for name, part in parts.items()}
        return {"step": training.step, **state, "rng": torch.get_rng_state()}

    def size_mib(self) -> float:
        """Return the size of the checkpoint."""
        (path,) = self._folder.checkpoints.glob("step-*.pt")
        return path.stat().st_size / 2**20

    def _timed(self, work: Callable[[], object]) -> float:
        started = time.perf_counter()
        work()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter() - started


def measure(case: Case, *, rounds: int, folder: Path) -> Row:
    """Return one row: medians over the rounds in milliseconds, and shares of a quiet step."""
    costs = Costs(case, folder)
    quiet, within, held, written, lost, beside = [], [], [], [], [], []
    for _ in range(rounds):
        quiet += [costs.step() for _ in range(QUIET_STEPS)]
        within.append(costs.save_within())
        seconds, taken, steps = costs.save_beside()
        held.append(seconds)
        written.append(taken)
        beside += steps
        # The last of these steps continues after the file is written, so not all of it is a cost.
        lost.append(seconds + sum(steps) - len(steps) * statistics.median(quiet))
    step = statistics.median(quiet)
    medians = {"held": held, "written": written, "lost": lost, "within": within}
    row: Row = {"checkpoint_mib": round(costs.size_mib(), 1), "rounds": rounds}
    row["step_ms"] = round(1e3 * step, 3)
    row["step_while_writing_ms"] = round(1e3 * statistics.median(beside or [step]), 3)
    for name, samples in medians.items():
        row[f"{name}_ms"] = round(1e3 * statistics.median(samples), 3)
    for name in ("held", "lost", "within"):
        share = statistics.median(medians[name]) / step
        row[f"{name}_share_of_step"] = round(share, 4)
        row[f"{name}_share_of_interval"] = round(share / INTERVAL_STEPS, 6)
    return case.describe() | row | {"interval_steps": INTERVAL_STEPS}


def one_line(row: Row) -> str:
    """Return a row as text."""
    return (
        f"{row['backbone']}, {row['checkpoint_mib']} MiB: a step of {row['step_ms']:.1f} ms is "
        f"held up for {row['held_ms']:.1f} ({row['held_share_of_step']:.1%} of it); with the "
        f"slower steps beside the writing {row['lost_ms']:.1f} ms are lost, "
        f"{row['lost_share_of_interval']:.3%} of {row['interval_steps']} steps; within the step "
        f"{row['within_ms']:.1f} ms"
    )


def main() -> None:
    """Measure, print and write one row per backbone."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(prog="python -m bench.checkpoints", description=__doc__)
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--backbones", nargs="+", default=["r2plus1d"] + ["tiny"] * (not cuda))
    parser.add_argument("--batch", type=int, default=64 if cuda else 2, help="videos, 4 views each")
    parser.add_argument("--frames", type=int, default=16 if cuda else 8)
    parser.add_argument("--crop", type=int, default=112 if cuda else 48)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, help="results without extension")
    parser.add_argument("--folder", type=Path, help="on the disk to write to (default: temporary)")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    out = arguments.out or RESULTS / f"checkpoints_{device.type}"
    size = Size(batch=arguments.batch, frames=arguments.frames, crop=arguments.crop)
    rows: list[Row] = []
    for backbone in arguments.backbones:
        with TemporaryDirectory(dir=arguments.folder) as folder:
            case = Case(backbone, size, device)
            rows.append(measure(case, rounds=arguments.rounds, folder=Path(folder) / "run"))
        print(one_line(rows[-1]), flush=True)
        write_rows([row | describe_machine(device) for row in rows], out)


if __name__ == "__main__":
    main()
