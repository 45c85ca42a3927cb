"""The runs under a folder and how far each has come, read from what they logged."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastdual.config.recipe import read_toml
from fastdual.errors import InputError, printable
from fastdual.loaders.files import parse_line, read_lines
from fastdual.run.folder import CONFIG_NAME
from fastdual.run.reading import SHARES

LOG_NAME = "log.jsonl"
# Deep enough for PROJECT/runs/GROUP/RUN; a tree of videos is not searched to its end.
_MAX_DEPTH = 4
_MAX_RESULT_BYTES = 1 << 24
_COLUMNS = ("loss", "clip_top1", "rank_accuracy", "train_top1")


@dataclass(frozen=True)
class RunSummary:
    """The log of a run in short.

    Attributes:
        run: Folder, relative to the one searched.
        state: `complete`, `stopped` (by a signal), `failed` (the log says why), or `open`: still
            running, or killed.
        step: Steps done.
        total_steps: Length of the run; None: not logged.
        idle_seconds: Time since it last logged.
        metrics: Its last reading, by name.
        kind: `pretrain`, `finetune` or `linear` (a frozen backbone); "?" without a config.
        result: Its newest evaluation, such as `retrieve R@1 21.6%`; "" without one.
    """

    run: str
    kind: str
    state: str
    step: int
    total_steps: int | None
    idle_seconds: float
    metrics: Mapping[str, float | None]
    result: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def find_runs(folder: Path) -> list[RunSummary]:
    """Return all runs in a folder, itself included, in the order of their names.

    Raises:
        InputError: No such folder, or no run in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name one that holds runs")
    found = [summarise(path, name=_relative(path, folder)) for path in sorted(_walk(folder))]
    if not found:
        raise InputError(f"{folder}: holds no run ({LOG_NAME}); name the folder of --run or above")
    return found


def runs_under(folder: Path) -> list[Path]:
    """Return the run folders that a folder stands for: itself, or those below it, if there are."""
    if (folder / LOG_NAME).exists() or not folder.is_dir():
        return [folder]
    return sorted(_walk(folder)) or [folder]


def summarise(run: Path, *, name: str) -> RunSummary:
    """Return what the log of a run folder says of it.

    Args:
        run: The folder.
        name: What the summary calls it.
    """
    path = run / LOG_NAME
    events = list(read_events(path))
    last = {event["event"]: event for event in events}
    state, reading = "open", last.get("train", {})
    total_steps = last.get("start", {}).get("total_steps")
    if events and events[-1]["event"] == "end":
        state = "complete" if events[-1].get("complete") else "stopped"
    if events and events[-1]["event"] == "failed":
        state = "failed"
    known = {"event", "step", "time"}
    numbers = (int, float, type(None))
    metrics = {
        key: value
        for key, value in reading.items()
        if key not in known and isinstance(value, numbers)
    }
    return RunSummary(
        run=name,
        kind=_kind(run),
        state=state,
        step=max((event["step"] for event in events), default=0),
        total_steps=total_steps if type(total_steps) is int else None,
        idle_seconds=max(0.0, time.time() - path.stat().st_mtime),
        metrics=metrics,
        result=_newest_result(run),
    )


def _kind(run: Path) -> str:
    try:
        config = read_toml(run / CONFIG_NAME)
    except InputError:
        return "?"
    if "model.weights" not in config:
        return "pretrain"
    return "linear" if config.get("model.freeze") else "finetune"


def _newest_result(run: Path) -> str:
    """Return task and first metric of the newest result file; "" where there is none that fits."""
    files = sorted((run / "results").glob("*.json"), key=lambda file: file.stat().st_mtime)
    for file in reversed(files):
        if file.stat().st_size > _MAX_RESULT_BYTES:
            continue
        result = parse_line(file.read_bytes()) or {}
        means = result.get("mean")
        if isinstance(means, dict) and means and "random" not in str(result.get("checkpoint")):
            name, value = next(iter(means.items()))
            return f"{result.get('task')} {name} {value:.1%}"
    return ""


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of a run's log, each with its name `event` and its `step`.

    Lines that are no events are left out: a kill may cut a line, and a crash of the machine leaves
    any bytes.
    """
    for event in read_lines(path):
        known = {key: value for key, value in event.items() if not _is_too_large(value)}
        if isinstance(known.get("event"), str) and type(known.get("step")) is int:
            yield known


def _is_too_large(value: Any) -> bool:
    """Whether a value is a whole number that no float holds, hence none that a run logged."""
    return isinstance(value, int) and abs(value) >= 2**63


def describe_runs(runs: Sequence[RunSummary]) -> str:
    """Return a table for people, one line per run; a metric that no run has gets no column."""
    columns = [name for name in _COLUMNS if any(name in run.metrics for run in runs)]
    titles = [name.replace("_", " ") for name in columns]
    rows = [["run", "kind", "state", "steps", "last heard", *titles, "result"]]
    for run in runs:
        total = "?" if run.total_steps is None else run.total_steps
        place = [run.run, run.kind, run.state, f"{run.step}/{total}", _ago(run.idle_seconds)]
        place += [*(_cell(name, run.metrics.get(name)) for name in columns), run.result]
        rows.append([printable(cell) for cell in place])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


def _walk(folder: Path) -> Iterator[Path]:
    base = len(folder.parts)
    for place, folders, files in os.walk(folder):
        path = Path(place)
        if LOG_NAME in files:
            yield path
        is_deep = len(path.parts) - base >= _MAX_DEPTH
        inside = LOG_NAME in files or is_deep
        folders[:] = [] if inside else [name for name in folders if not name.startswith(".")]


def _relative(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path != folder else folder.resolve().name


def _ago(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1%}" if name in SHARES else f"{value:.4g}"
