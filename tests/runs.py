"""Small runs of `fastdual pretrain` for tests: real videos, the real loader, a quick network."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from click.testing import CliRunner, Result

from fastdual.cli import cli
from fastdual.loaders.index import build_index
from tests.loaders.clips import encode

# 8 frames of 32 x 32: a step takes some hundredths of a second.
QUICK = {
    "model.backbone": "tiny",
    "clip.frames_per_clip": 8,
    "clip.frame_stride": 1,
    "clip.resize_height": 36,
    "clip.resize_width": 48,
    "clip.crop_size": 32,
    "data.batch_size": 4,
    "data.num_workers": 1,
    "schedule.epochs": 3,
    "schedule.milestones": "[2]",
    "run.log_every_steps": 1,
    "run.device": "cpu",
}


def write_videos(folder: Path, *, count: int) -> Path:
    """Encode `count` videos of 10 to 14 frames; returns the folder."""
    for number in range(count):
        encode(folder / f"video{number:02d}.mp4", 10 + number % 5, gop=5)
    return folder


def write_index(folder: Path, *, count: int) -> Path:
    """Encode videos and index them; returns the index file."""
    videos = write_videos(folder / "videos", count=count)
    build_index(videos, folder / "videos.h5", num_workers=1)
    return folder / "videos.h5"


def arguments(data: Path, run: Path, *more: str, **settings: Any) -> list[str]:
    """Command line of a quick run; settings are written with two underscores for the dot."""
    values = QUICK | {key.replace("__", "."): value for key, value in settings.items()}
    pairs = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    recipe = ("--recipe", "paper-simclr")  # and not what suits the machine
    return ["pretrain", str(data), "--run", str(run), *recipe, *pairs, *more]


def invoke(args: list[str]) -> Result:
    """Run a command line in this process."""
    return CliRunner().invoke(cli, args)


def assert_refused(args: list[str], *words: str, code: int = 2) -> None:
    """One line that says the words, the right exit code, no traceback, and no run folder made."""
    run = Path(args[args.index("--run") + 1])
    before = sorted(run.rglob("*")) if run.is_dir() else None
    result = invoke(args)
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    error = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(error) == 1, result.stderr
    for word in words:
        assert word in error[0]
    assert (sorted(run.rglob("*")) if run.is_dir() else None) == before


def start(args: list[str]) -> "subprocess.Popen[str]":
    """Run a command line in a process of its own, with as many threads as this one has."""
    command = [sys.executable, "-m", "fastdual", *args]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)


def read_log(run: Path, event: str) -> list[dict[str, Any]]:
    """The events of one kind that a run has logged so far; a line cut by a kill is left out."""
    path = run / "log.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [line for line in map(json.loads, lines) if line["event"] == event]


def wait_for_steps(process: "subprocess.Popen[Any]", run: Path, steps: int) -> None:
    """Wait until a run has logged so many readings; it may not end before."""
    deadline = time.monotonic() + 120
    while len(read_log(run, "train")) < steps:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"fewer than {steps} steps in two minutes"
        time.sleep(0.01)


def differences(a: Any, b: Any, place: str = "") -> list[str]:
    """Where two nested states differ, bit for bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [place]
    if isinstance(a, dict) and isinstance(b, dict):
        if set(a) != set(b):
            return [f"{place}: keys {sorted(set(a) ^ set(b), key=str)}"]
        return [d for key in a for d in differences(a[key], b[key], f"{place}.{key}")]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        pairs = enumerate(zip(a, b, strict=True))
        return [d for i, (x, y) in pairs for d in differences(x, y, f"{place}[{i}]")]
    return [] if a == b else [f"{place}: {a!r} and {b!r}"]
