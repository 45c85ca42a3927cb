"""A training step: as the paper's code, plain eager, ours; where its time goes, and how fast it is.

    python -m bench.train [--backbones r2plus1d s3d] [--data INDEX] [--levers] [--out PATH]

All contestants start from the same weights and take the same batches. Before any is timed, the
losses of its first steps are compared with the same arithmetic, written plainly in fp32. Each takes
turns with the first. Without --data the batches are random numbers on the device; with it each
contestant trains from a loader of its own. Without a CUDA device the network is the tiny one in
fp32: such figures show that nothing is lost there, and say nothing about a GPU.
"""

import argparse
import functools
import gc
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

if not __package__:  # run as a file
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from bench.parts.measure import Timing, measured_matmul_tflops, peak_memory_mib
from bench.parts.results import RESULTS, Row, Table, describe_machine
from bench.parts.train.case import Case, Size
from bench.parts.train.contestants import (
    CONTESTANTS,
    LEVERS,
    PARTS,
    Contestant,
    reference_losses,
)
from bench.parts.train.figures import kernel_times, real_rates, training_gflop
from bench.parts.train.plot import draw, one_line

# Relative, over the first steps. bf16 has 8 bits; a temperature of 0.07 magnifies its rounding.
STEPS_BEFORE = 3
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}


def measure(case: Case, names: list[str], *, repeats: int, data: Path | None) -> Iterator[Row]:
    """Yield one row per contestant: agreement, times, memory, utilisation, kernels.

    The first that agrees stays; each other one takes turns with it, and is gone before the next is
    made. So a row is there as soon as its contestant is done, and memory holds two at most.
    """
    first: Contestant | None = None
    for name in names:
        row, made = case.describe() | {"contestant": name}, None
        try:
            made = Contestant(name, case)
            row |= compare(made)
            if row["status"] == "ok":
                first = first or made
                beside, samples = take_turns(first, made, repeats)
                row |= describe_speed(made, samples)
                row |= {"beside": first.name, "beside_ms": round(median_ms(beside), 3)}
                if data is not None:
                    row |= real_rates(made, data)
        except torch.OutOfMemoryError:  # fp32 needs twice the memory; the others go on
            row |= {"status": "out of memory", "max_error": "?"}
        yield row
        del made
        gc.collect()  # hooks and what they belong to refer to each other
        if case.device.type == "cuda":
            torch.cuda.empty_cache()


def compare(contestant: Contestant) -> Row:
    """Return whether the losses of the first steps are those of the reference."""
    losses = [float(contestant.step()) for _ in range(STEPS_BEFORE)]
    error = largest_error(losses, reference_losses(contestant, STEPS_BEFORE))
    tolerance = TOLERANCE[contestant.dtype]
    return {
        "status": "ok" if error <= tolerance else "disagrees",
        "steps_before": STEPS_BEFORE,
        "max_error": f"{error:.1e}",
        "tolerance": tolerance,
    }


def take_turns(
    first: Contestant, second: Contestant, repeats: int
) -> tuple[list[list[float]], list[list[float]]]:
    """Return the milliseconds of each part, per step, of two contestants that take turns."""
    pair = (first, second) if first is not second else (first,)
    samples: list[list[list[float]]] = [[] for _ in pair]
    for turn in range(repeats + 2):  # two to warm up
        for contestant, times in zip(pair, samples, strict=True):
            taken = contestant.timed_step()
            if turn >= 2:
                times.append(taken)
    return samples[0], samples[-1]


def median_ms(samples: list[list[float]]) -> float:
    """Return the milliseconds of a whole step."""
    return Timing.of([sum(times) for times in samples]).median_ms


@functools.cache
def _roofline(device: torch.device, dtype: torch.dtype) -> float:
    return measured_matmul_tflops(device, dtype)


def largest_error(ours: list[float], truth: list[float]) -> float:
    """Return the largest relative error over the steps."""
    return max(abs(a - b) / abs(b) for a, b in zip(ours, truth, strict=True))


def describe_speed(contestant: Contestant, samples: list[list[float]]) -> Row:
    """Return times, rates, memory and kernels of one contestant.

    Args:
        contestant: Takes further steps, for memory and kernels.
        samples: Milliseconds of each part, per timed step.
    """
    size, device = contestant.case.size, contestant.case.device
    gflop = training_gflop(contestant.case.backbone, size)
    roofline = _roofline(device, contestant.dtype)
    total = Timing.of([sum(times) for times in samples])
    clips = 4 * size.batch
    tflops = gflop * clips / total.median_ms  # GFLOP per millisecond
    row: Row = {
        "step_ms": round(total.median_ms, 3),
        "p20_ms": round(total.p20_ms, 3),
        "p80_ms": round(total.p80_ms, 3),
        "repeats": len(samples),
    }
    for part, column in zip(PARTS, zip(*samples, strict=True), strict=True):
        row[f"{part}_ms"] = round(Timing.of(column).median_ms, 3)
    row |= {
        "clips_per_second": round(1e3 * clips / total.median_ms, 2),
        "peak_mib": round(peak_memory_mib(contestant.step, device), 1),
        "tflops": round(tflops, 4),
        "roofline_tflops": round(roofline, 3),
        "utilisation": round(tflops / roofline, 4),
    }
    for kind, milliseconds in kernel_times(contestant).items():
        row[f"kernels_{kind}_ms"] = round(milliseconds, 3)
    return row


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Return the options, with defaults for this machine."""
    parser = argparse.ArgumentParser(prog="python -m bench.train", description=__doc__)
    cuda = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--backbones", nargs="+")
    parser.add_argument("--batch", type=int, help="videos, 4 views each")
    parser.add_argument("--frames", type=int)
    parser.add_argument("--crop", type=int)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--levers", action="store_true", help="also ours with one setting changed")
    parser.add_argument(
        "--contestants", nargs="+", choices=[*CONTESTANTS, *LEVERS], metavar="NAME",
        help=f"these alone, each beside the first of them: {'; '.join([*CONTESTANTS, *LEVERS])}",
    )  # fmt: skip
    parser.add_argument("--data", type=Path, help="index of videos, for the real loader")
    parser.add_argument("--out", type=Path, help="results without extension")
    parser.add_argument("--continue", action="store_true", dest="keep", help="keep rows in --out")
    arguments = parser.parse_args(words)
    on_cuda = arguments.device.startswith("cuda")
    if not on_cuda:
        print("On a CPU: a tiny network in fp32; says nothing about a GPU.", file=sys.stderr)
    defaults = {
        "backbones": ["r2plus1d", "r2plus1d-18", "s3d"] if on_cuda else ["tiny"],
        "batch": 64 if on_cuda else 4,
        "frames": 16 if on_cuda else 8,
        "crop": 112 if on_cuda else 48,
        "repeats": 20 if on_cuda else 10,
        "out": RESULTS / f"train_{'cuda' if on_cuda else 'cpu'}",
    }
    for name, value in defaults.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    return arguments


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print and write every row, then draw the picture."""
    arguments = parse(words)
    device = torch.device(arguments.device)
    size = Size(batch=arguments.batch, frames=arguments.frames, crop=arguments.crop)
    names = arguments.contestants or [*CONTESTANTS, *(LEVERS if arguments.levers else ())]
    machine = describe_machine(device)
    table = Table(arguments.out, keep=arguments.keep)
    for backbone in arguments.backbones:
        case = Case(backbone, size, device)
        known = {name for name in names if table.has(contestant=name, **case.describe())}
        missing = [name for name in names if name not in known]
        wanted = [names[0], *(name for name in missing if name != names[0])] if missing else []
        for row in measure(case, wanted, repeats=arguments.repeats, data=arguments.data):
            print(one_line(row), flush=True)
            if row["contestant"] not in known:
                table.add(row | machine)
    draw(table.rows, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
