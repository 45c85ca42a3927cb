"""Time, memory and kernel launches of a function, and the rate of a matrix product."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call, over the repeats."""

    median_ms: float
    p20_ms: float
    p80_ms: float

    @classmethod
    def of(cls, samples_ms: Sequence[float]) -> "Timing":
        p20, median, p80 = np.percentile(samples_ms, [20, 50, 80])
        return cls(float(median), float(p20), float(p80))


Phases = Sequence[Callable[[], Any]]


def time_interleaved(
    contestants: Mapping[str, Phases],
    *,
    device: torch.device,
    warmup: int = 3,
    min_repeats: int = 5,
    max_repeats: int = 100,
    budget_seconds: float = 2.0,
) -> dict[str, list[Timing]]:
    """Time the contestants in turns, so that a change of clock speed affects all alike.

    Args:
        contestants: By name, the functions that are called one after the other; each phase may use
            what an earlier one left behind.
        device: On CUDA, events on the stream are the clock, on a CPU the wall clock.
        warmup: Number of untimed turns.
        min_repeats: Lowest number of timed turns.
        max_repeats: Highest number of timed turns.
        budget_seconds: No turn beyond `min_repeats` starts after this time.

    Returns:
        By name, the timing of each phase, and last that of all phases together.
    """
    samples: dict[str, list[list[float]]] = {name: [] for name in contestants}
    for _ in range(warmup):
        for phases in contestants.values():
            _run(phases, device)
    start = time.perf_counter()
    for repeat in range(max_repeats):
        if repeat >= min_repeats and time.perf_counter() - start > budget_seconds:
            break
        for name, phases in contestants.items():
            samples[name].append(_run(phases, device))
    timings = {}
    for name, turns in samples.items():
        columns = [*zip(*turns, strict=True)]
        timings[name] = [Timing.of(column) for column in [*columns, [sum(t) for t in turns]]]
    return timings


def _run(phases: Phases, device: torch.device) -> list[float]:
    """Return the milliseconds of each phase of one turn."""
    if device.type != "cuda":
        marks = [time.perf_counter()]
        for phase in phases:
            phase()
            marks.append(time.perf_counter())
        return [1e3 * (after - before) for before, after in zip(marks, marks[1:], strict=False)]
    events: list[Any] = [
        torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        for _ in range(len(phases) + 1)
    ]
    events[0].record()
    for phase, event in zip(phases, events[1:], strict=True):
        phase()
        event.record()
    events[-1].synchronize()
    return [before.elapsed_time(after) for before, after in zip(events, events[1:], strict=False)]


def peak_memory_mib(run: Callable[[], Any], device: torch.device) -> float:
    """Return the peak of what `run` allocates beyond what was allocated before, in MiB."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    activities = [torch.profiler.ProfilerActivity.CPU]
    with silent_stderr(), torch.profiler.profile(activities=activities, profile_memory=True) as p:
        run()
    changes = sorted(
        (event.start_ns(), event.nbytes())
        for event in p.profiler.kineto_results.events()
        if event.name() == "[memory]"
    )
    held = np.cumsum([nbytes for _, nbytes in changes])
    return float(max(0, held.max())) / 2**20 if len(held) else 0.0


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Discard what C code writes: some builds of the profiler print at every start and stop."""
    sys.stderr.flush()
    with open(os.devnull, "w") as nowhere:
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def count_launches(run: Callable[[], Any], device: torch.device) -> int | None:
    """Return how many kernels, copies and fills `run` launches on the GPU; None on a CPU."""
    if device.type != "cuda":
        return None
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with silent_stderr(), torch.profiler.profile(activities=activities) as profile:
        run()
        torch.cuda.synchronize(device)
    return len([event for event in profile.events() if event.device_type.name == "CUDA"])


def measured_matmul_tflops(device: torch.device, dtype: torch.dtype) -> float:
    """Return the TFLOP/s of a large square matrix product: the roofline of this device."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    timings = time_interleaved({"matmul": [lambda: a @ b]}, device=device)
    return float(2 * size**3 / (timings["matmul"][0].median_ms * 1e-3) / 1e12)
