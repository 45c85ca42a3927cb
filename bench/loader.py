"""Encoded video to augmented clips: ours against other decoders, and against the limit.

    python -m bench.loader [--data FOLDER|CSV|INDEX|PACK] [--videos 24] [--repeats 3] [--out PATH]

All contestants load the same videos, by the same plan, into the same four views (tensor operations
augment what other libraries decode). First batches are compared before anything is timed: every
video must look like ours, and be nearer to ours than to loaders that are wrong on purpose, one
frame late and one frame early. A contestant whose pictures differ is not timed; one that numbers
frames differently is timed and marked. Every run is a process of its own, and they take turns.

`idle_share` is the share of their time that our workers waited for a video to decode.

The limit is a bare decode of the wanted frames by our decoder plus bare augmentation, each measured
alone on all cores: it takes as long as both in sequence. Without --data, 340x256 H.264 clips of ten
seconds are written: six different ones, and copies of them.
"""

import argparse
import contextlib
import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

if not __package__:  # run as a file
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch

from bench.parts.loader import plot
from bench.parts.loader.contestants import CONTESTANTS, Contestant, Job
from bench.parts.loader.data import Prepared, prepare
from bench.parts.loader.decoders import lend_ffmpeg
from bench.parts.loader.verdict import REFERENCE, verdict
from bench.parts.results import RESULTS, Row, describe_machine, write_rows
from fastdual.errors import FailureError, InputError
from fastdual.loaders import files
from fastdual.loaders.pool.cpus import available_cpus
from fastdual.loaders.views.augment import STD

CONTROLS = ("one frame late", "one frame early")
# Of 255, averaged over the pixels of a video; a coarse check, for wrong colours and wrong crops.
# Other scalers, chroma interpolation and rounding differ by 1 to 2, another encoding by 1 to 3, and
# the colour jitter magnifies both up to sixfold (1.8 x 1.8 x 1.8). Wrong frames differ by a few
# units too, so only the comparison with CONTROLS can tell them.
SAME_LOOK = 15.0
_LIMIT_SECONDS = 300
FIGURES = (
    "videos_per_second", "cpu_ms_per_video", "first_batch_seconds", "peak_mib", "peak_device_mib",
    "idle_share",
)  # fmt: skip
_FRAMES_PER_VIDEO = 4 * 16  # four views of sixteen frames are delivered


def run(job: Job, environment: dict[str, str]) -> dict[str, Any] | str:
    """Measure a job in a process of its own; return its figures, or what went wrong."""
    command = [sys.executable, "-m", "bench.parts.loader.run", json.dumps(asdict(job))]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=environment,
            cwd=RESULTS.parents[1],
            timeout=_LIMIT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"failed: not done after {_LIMIT_SECONDS} s"
    if done.returncode:
        return f"failed: {(done.stderr.strip().splitlines() or ['no message'])[-1][:200]}"
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def differences(dumped: Path, reference: Path) -> np.ndarray[Any, Any]:
    """Return the mean absolute difference [B], of 255, over the pixels of each video's views."""
    ours, theirs = (np.load(path) for path in (reference, dumped))
    if ours.shape != theirs.shape:
        return np.full(len(ours), np.inf)
    scale = np.array(STD, np.float32)[None, None, :, None, None, None]
    return np.asarray((np.abs(ours - theirs) * scale).mean(axis=(1, 2, 3, 4, 5)))


def judge(dumped: Path, references: dict[str, Path]) -> dict[str, str]:
    """Compare a first batch with ours and with the wrong ones; return a status and the errors."""
    errors = differences(dumped, references[REFERENCE])
    status = "ok" if errors.max() <= SAME_LOOK else "disagrees"
    if status == "ok":
        for name in CONTROLS:
            nearer = int((differences(dumped, references[name]) < errors).sum())
            if nearer:
                status = f"ok, but other frames: {nearer} of {len(errors)} videos {name}"
    return {
        "status": status,
        "mean_difference": f"{errors.mean():.2f}",
        "worst_difference": f"{errors.max():.2f}",
    }


def admit(
    contestants: Sequence[Contestant], job: Job, environment: dict[str, str]
) -> dict[str, dict[str, str]]:
    """Run each contestant once and compare its first batch with ours.

    Returns:
        By name, a status and the differences.

    Raises:
        FailureError: Our own loader or one of the controls gives no batch.
    """
    once = replace(job, warmup=1, batches=0, seconds=0.0)
    references = {}
    for number, name in enumerate((REFERENCE, *CONTROLS)):
        references[name] = Path(job.folder) / f"reference{number}.npy"
        figures = run(replace(once, contestant=name, dump=str(references[name])), environment)
        if isinstance(figures, str):
            raise FailureError(f"{name}: {figures}")
    facts: dict[str, dict[str, str]] = {}
    for contestant in contestants:
        name = contestant.name
        missing = contestant.missing(torch.cuda.is_available())
        if missing or contestant.kind == "limit":
            facts[name] = {"status": missing or "ok"}
            continue
        dumped = references.get(name, Path(job.folder) / "theirs.npy")
        failed = None
        if name not in references:
            figures = run(replace(once, contestant=name, dump=str(dumped)), environment)
            failed = {"status": figures} if isinstance(figures, str) else None
        facts[name] = failed or judge(dumped, references)
        print(f"{name}: {facts[name]}", file=sys.stderr, flush=True)
    return facts


def measure(
    names: Sequence[str], job: Job, repeats: int, environment: dict[str, str]
) -> Iterator[dict[str, list[dict[str, Any]]]]:
    """Let contestants take turns, each beginning with another one; yield the figures so far."""
    samples: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for repeat in range(repeats):
        first = repeat * 3 % len(names)
        for name in [*names[first:], *names[:first]]:
            figures = run(replace(job, contestant=name), environment)
            if isinstance(figures, str):
                print(f"{name}: {figures}", file=sys.stderr, flush=True)
                continue
            samples[name].append(figures)
            print(
                f"turn {repeat + 1}  {name:34} {figures['videos_per_second']:7.1f} videos/s",
                file=sys.stderr,
                flush=True,
            )
            yield samples


def to_rows(
    facts: dict[str, dict[str, str]],
    samples: dict[str, list[dict[str, Any]]],
    prepared: Prepared,
    job: Job,
) -> list[Row]:
    """Return one row per contestant: medians over the turns, and the range of the rate."""
    rows = []
    for name, fact in facts.items():
        contestant = CONTESTANTS[name]
        row: Row = {"contestant": name, "kind": contestant.kind, **fact}
        turns = samples.get(name, [])
        if turns:
            for figure in FIGURES:
                values = [turn[figure] for turn in turns]
                if None not in values:
                    row[figure] = round(float(np.median(values)), 3)
            rates = [turn["videos_per_second"] for turn in turns]
            row |= {"slowest": round(min(rates), 3), "fastest": round(max(rates), 3)}
            row["clips_per_second"] = round(4 * row["videos_per_second"], 3)
            row["frames_per_second"] = round(_FRAMES_PER_VIDEO * row["videos_per_second"], 1)
            row["turns"] = len(turns)
        reads = contestant.reads
        if contestant.kind in ("ours", "theirs") and reads in prepared.bytes_per_video:
            row["disk_bytes_per_clip"] = round(prepared.bytes_per_video[reads] / 4)
            row["seconds_to_make"] = round(prepared.seconds_to_make[reads], 1)
        rows.append(row | {"batch_size": job.batch_size, "workers": job.num_workers})
    return rows


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options, with defaults for this machine."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.loader",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, help="folder, CSV, index or pack")
    parser.add_argument("--videos", type=int, default=24, help="at most this many, evenly chosen")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--batches", type=int, default=6, help="timed per turn, at least")
    parser.add_argument("--warmup", type=int, default=2, help="before the clock starts, at least")
    parser.add_argument("--seconds", type=float, default=4.0, help="timed per turn, at least")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=available_cpus())
    parser.add_argument(
        "--contestants", "--providers", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS),
        metavar="NAME", help=f"of {'; '.join(CONTESTANTS)}",
    )  # fmt: skip
    parser.add_argument("--work", type=Path, help="keep the prepared data here")
    parser.add_argument("--out", type=Path, help="results without extension")
    parsed = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = "synthetic" if parsed.data is None else parsed.data.stem
    parsed.out = parsed.out or RESULTS / f"loader_{name}_{device}"
    return parsed


def run_all(parsed: argparse.Namespace, folder: Path) -> list[Row]:
    """Prepare data in a folder, compare the contestants, time them; write and return their rows.

    Raises:
        InputError: `--data` cannot be read.
        FailureError: Our own loader or one of the controls gives no batch.
    """
    contestants = [CONTESTANTS[name] for name in parsed.contestants]
    prepared = prepare(
        parsed.data,
        folder,
        num_videos=parsed.videos,
        wanted={contestant.reads for contestant in contestants},
        num_workers=parsed.workers,
    )
    job = Job(
        contestant=REFERENCE,
        folder=str(folder),
        batch_size=min(parsed.batch_size, len(prepared.index)),
        num_workers=parsed.workers,
        warmup=parsed.warmup,
        batches=parsed.batches,
        seconds=parsed.seconds,
    )
    environment = lend_ffmpeg(folder / "ffmpeg")
    facts = admit(contestants, job, environment)
    names = [
        contestant.name
        for contestant in contestants
        if contestant.kind != "control" and facts[contestant.name]["status"].startswith("ok")
    ]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shared = {"data": parsed.out.name, "videos": len(prepared.index)} | describe_machine(device)
    rows: list[Row] = []
    # What is cut off loses the turn that was being measured.
    for samples in itertools.chain([{}], measure(names, job, parsed.repeats, environment)):
        rows = [row | shared for row in to_rows(facts, samples, prepared, job)]
        write_rows(rows, parsed.out)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write, print; return 1 if a contestant of ours fails or disagrees."""
    parsed = parse(arguments)
    with contextlib.ExitStack() as stack:
        folder = parsed.work
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-loader-")))
        folder = folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            rows = run_all(parsed, folder)
        except (InputError, FailureError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2 if isinstance(error, InputError) else 1
    plot.draw(rows, parsed.out.with_suffix(".png"))
    text = "\n".join(verdict(rows))
    files.write(parsed.out.with_suffix(".txt"), text + "\n", "the verdict")
    print(text)
    well = ("ok", "missing")
    ours = [row for row in rows if row["kind"] == "ours"]
    return int(not all(row["status"].startswith(well) for row in ours))


if __name__ == "__main__":
    sys.exit(main())
