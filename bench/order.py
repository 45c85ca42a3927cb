"""CPU time and memory to draw the order of an epoch, and the plan of a batch, of very many videos.

    python -m bench.order [--videos 10000000] [--samples 512] [--out PATH]

The least CPU time of several turns, so that other work on the machine matters little. Exits 1 if
the order takes 2 s or 200 MB, or the plan 20 ms.
"""

import argparse
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

if not __package__:  # run as a file
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch

from bench.parts.results import RESULTS, describe_machine, write_json
from fastdual.loaders.order import EpochOrder
from fastdual.loaders.plan import ClipSpec, draw_plan

LIMITS = {"order_seconds": 2.0, "order_mb": 200.0, "plan_ms": 20.0}
_TURNS = 5


def cpu_seconds(draw: Callable[[int], object], turns: int) -> float:
    """Return the least CPU time of a call; each draws another epoch, so no result is reused."""
    durations = []
    for epoch in range(turns):
        started = time.process_time()
        draw(epoch)
        durations.append(time.process_time() - started)
    return min(durations)


def peak_mb(draw: Callable[[int], object]) -> float:
    """Return the peak of memory from one epoch to the next, in MB."""
    tracemalloc.start()
    draw(0)
    draw(1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def measure(videos: int, samples: int) -> dict[str, float]:
    """Return seconds and MB of an epoch's order, and milliseconds of a plan."""
    spec, num_frames, numbers = ClipSpec(), np.full(samples, 300), np.arange(samples)

    def order() -> EpochOrder:
        return EpochOrder(videos, global_batch_size=min(512, videos), seed=1)

    def plan(epoch: int) -> object:
        return draw_plan(spec, seed=1, epoch=epoch, videos=numbers, num_frames=num_frames)

    timed, weighed = order(), order()
    return {
        "order_seconds": round(cpu_seconds(lambda epoch: timed.batch(epoch, 0), _TURNS), 4),
        "order_mb": round(peak_mb(lambda epoch: weighed.batch(epoch, 0)), 1),
        "plan_ms": round(1e3 * cpu_seconds(plan, 4 * _TURNS), 3),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write JSON, print; return 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(prog="python -m bench.order", description=__doc__)
    parser.add_argument("--videos", type=int, default=10_000_000)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--out", type=Path, default=RESULTS / "order_cpu.json")
    parsed = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = measure(parsed.videos, parsed.samples)
    facts = {"videos": parsed.videos, "samples": parsed.samples, **found}
    write_json({**facts, **describe_machine(torch.device("cpu"))}, parsed.out)
    print(
        f"the order of {parsed.videos:,} videos: {found['order_seconds']:.2f} s of CPU time, "
        f"{found['order_mb']:.0f} MB; "
        f"a plan of {parsed.samples:,} samples: {found['plan_ms']:.1f} ms"
    )
    exceeded = [name for name, limit in LIMITS.items() if found[name] >= limit]
    for name in exceeded:
        print(f"PROBLEM: {name} is {found[name]}, the limit {LIMITS[name]}")
    return int(bool(exceeded))


if __name__ == "__main__":
    sys.exit(main())
