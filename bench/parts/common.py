"""What every benchmark shares: which machine this is, interleaved timing, memory, CSV and JSON."""

import csv
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

RESULTS = Path(__file__).resolve().parents[1] / "results"

Row = dict[str, Any]


def describe_machine(device: torch.device) -> dict[str, str]:
    """Columns that every row carries: device, driver, versions, commit and date."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else _cpu_name(),
        "threads": "" if cuda else str(torch.get_num_threads()),
        "driver": _first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "commit": _first_line("git", "describe", "--always", "--dirty", "--exclude=*"),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _first_line(*command: str) -> str:
    """First line that a command prints, "" where it is missing or fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=RESULTS.parent, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout else ""


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call over the repeats."""

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
    """Times the contestants' phases in turns, so that a change of clock speed hits all alike.

    Args:
        contestants: Name -> functions that are called one after the other; a phase may use what an
            earlier one left behind.
        device: CUDA: measured by events on the stream; CPU: by the wall clock.
        warmup: Untimed turns.
        min_repeats: Timed turns at least.
        max_repeats: Timed turns at most.
        budget_seconds: No new turn after this time, once there are enough.

    Returns:
        Name -> timing of each phase, and of all phases together as the last.
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
    """Milliseconds of each phase of one turn."""
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
    """Most memory that `run` has allocated at a time beyond what was there before, MiB."""
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
    """Some builds of the profiler print two lines at every start and stop, past Python's stderr."""
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
    """Kernels, copies and fills that `run` puts on the GPU; None on a CPU."""
    if device.type != "cuda":
        return None
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with silent_stderr(), torch.profiler.profile(activities=activities) as profile:
        run()
        torch.cuda.synchronize(device)
    return len([event for event in profile.events() if event.device_type.name == "CUDA"])


def measured_matmul_tflops(device: torch.device, dtype: torch.dtype) -> float:
    """The roofline: rate of a large square matrix product of this dtype on this device."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    timings = time_interleaved({"matmul": [lambda: a @ b]}, device=device)
    return float(2 * size**3 / (timings["matmul"][0].median_ms * 1e-3) / 1e12)


def markdown_table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A table of Markdown; a cell of the head may be empty."""
    rows = "".join(f"\n| {' | '.join(cells)} |" for cells in body)
    return f"| {' | '.join(head)} |\n{'|---' * len(head)}|{rows}".replace("|  |", "| |", 1)


def between_marks(document: str, marks: tuple[str, str], text: str) -> str:
    """The document with a text between its two marks, in place of what is there.

    Raises:
        ValueError: A mark is missing.
    """
    before, start, rest = document.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not end:
        raise ValueError(f"the document lacks the marks {marks[0]} and {marks[1]}")
    return f"{before}{start}\n{text}\n{end}{after}"


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """PATH.csv and PATH.json, with the columns of all rows in order of first appearance."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    path.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
