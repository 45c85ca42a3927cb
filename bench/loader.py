"""Encoded video to augmented clips: ours against other decoders, and against the limit.

    python -m bench.loader [--data FOLDER|CSV|INDEX|PACK] [--videos 24] [--repeats 3] [--out PATH]

All contestants load the same videos, by the same plan, into the same four views (the rivals'
augmentation is written in tensor operations). Before anything is timed first batches are compared:
every video must look like ours, and be nearer to ours than to loaders that are wrong on purpose,
one frame late and one frame early. A contestant that looks different is not timed; one that numbers
frames differently is, and it is said. Every run is a process of its own, and they take turns.

The limit is a bare decode of just the wanted frames by our decoder, and the bare augmentation, each
alone on all cores: together they take as long as both, one after the other. Without --data
340x256 H.264 clips of ten seconds are written, six different ones and copies.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from bench.parts.common import RESULTS, Row, describe_machine, write_rows
from bench.parts.loader import plot as plot_loader
from bench.parts.loader.data import Prepared, prepare
from bench.parts.loader.providers import PROVIDERS, Job, Provider
from bench.parts.loader.rivals import STD, lend_ffmpeg
from bench.parts.loader.verdict import REFERENCE, verdict
from fastdual.errors import FailureError, InputError
from fastdual.loaders.batch.decoder import available_cpus

CONTROLS = ("one frame late", "one frame early")
# Of 255, averaged over the pixels of a video; a coarse check, for wrong colours and wrong crops.
# Other scalers, chroma interpolation and rounding make 1 to 2, encoding anew 1 to 3, and the colour
# jitter stretches both up to sixfold (1.8 x 1.8 x 1.8). Whether frames are the right ones is a
# matter of a few units as well, so that is told by comparing with CONTROLS.
SAME_LOOK = 15.0
OTHER_FRAMES = "ok, but other frames"
_LIMIT_SECONDS = 300
FIGURES = (
    "videos_per_second",
    "cpu_ms_per_video",
    "first_batch_seconds",
    "peak_mib",
    "peak_device_mib",
)
_FRAMES_PER_VIDEO = 4 * 16  # four views of sixteen frames are delivered


def run(job: Job, environment: dict[str, str]) -> dict[str, Any] | str:
    """Measure a job in a process of its own; returns its figures, or what went wrong."""
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
    """Mean absolute difference of each video's pixels, of 255, over all its views; [B]."""
    ours, theirs = (np.load(path) for path in (reference, dumped))
    if ours.shape != theirs.shape:
        return np.full(len(ours), np.inf)
    scale = STD.numpy()[None, None, :, None, None, None]
    return np.asarray((np.abs(ours - theirs) * scale).mean(axis=(1, 2, 3, 4, 5)))


def judge(dumped: Path, references: dict[str, Path]) -> dict[str, str]:
    """Compare a first batch with ours and with the wrong ones; returns a status and the errors."""
    errors = differences(dumped, references[REFERENCE])
    status = "ok" if errors.max() <= SAME_LOOK else "disagrees"
    if status == "ok":
        for name in CONTROLS:
            nearer = int((differences(dumped, references[name]) < errors).sum())
            if nearer:
                status = f"{OTHER_FRAMES}: {nearer} of {len(errors)} videos {name}"
    return {
        "status": status,
        "mean_difference": f"{errors.mean():.2f}",
        "worst_difference": f"{errors.max():.2f}",
    }


def admit(
    providers: Sequence[Provider], job: Job, environment: dict[str, str]
) -> dict[str, dict[str, str]]:
    """Run each once and compare its first batch with ours; a status, and the error, for each.

    Raises:
        FailureError: Our own loader or one of the controls gives no batch.
    """
    once = replace(job, warmup=1, batches=0, seconds=0.0)
    references = {}
    for number, name in enumerate((REFERENCE, *CONTROLS)):
        references[name] = Path(job.folder) / f"reference{number}.npy"
        figures = run(replace(once, provider=name, dump=str(references[name])), environment)
        if isinstance(figures, str):
            raise FailureError(f"{name}: {figures}")
    facts: dict[str, dict[str, str]] = {}
    for provider in providers:
        missing = provider.missing(torch.cuda.is_available())
        if missing or provider.kind == "limit":
            facts[provider.name] = {"status": missing or "ok"}
            continue
        dumped = references.get(provider.name, Path(job.folder) / "theirs.npy")
        failed = None
        if provider.name not in references:
            figures = run(replace(once, provider=provider.name, dump=str(dumped)), environment)
            failed = {"status": figures} if isinstance(figures, str) else None
        facts[provider.name] = failed or judge(dumped, references)
        print(f"{provider.name}: {facts[provider.name]}", file=sys.stderr, flush=True)
    return facts


def measure(
    names: Sequence[str], job: Job, repeats: int, environment: dict[str, str]
) -> dict[str, list[dict[str, Any]]]:
    """Let the contestants take turns, each time beginning with another one."""
    samples: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for repeat in range(repeats):
        first = repeat * 3 % len(names)
        for name in [*names[first:], *names[:first]]:
            figures = run(replace(job, provider=name), environment)
            if isinstance(figures, str):
                print(f"{name}: {figures}", file=sys.stderr, flush=True)
                continue
            samples[name].append(figures)
            print(
                f"turn {repeat + 1}  {name:34} {figures['videos_per_second']:7.1f} videos/s",
                file=sys.stderr,
                flush=True,
            )
    return samples


def to_rows(
    facts: dict[str, dict[str, str]],
    samples: dict[str, list[dict[str, Any]]],
    prepared: Prepared,
    job: Job,
) -> list[Row]:
    """One row a contestant: medians over the turns, and the range of the rate."""
    rows = []
    for name, fact in facts.items():
        provider = PROVIDERS[name]
        row: Row = {"provider": name, "kind": provider.kind, **fact}
        turns = samples.get(name, [])
        if turns:
            for figure in FIGURES:
                row[figure] = round(float(np.median([turn[figure] for turn in turns])), 3)
            rates = [turn["videos_per_second"] for turn in turns]
            row |= {"slowest": round(min(rates), 3), "fastest": round(max(rates), 3)}
            row["clips_per_second"] = round(4 * row["videos_per_second"], 3)
            row["frames_per_second"] = round(_FRAMES_PER_VIDEO * row["videos_per_second"], 1)
            row["turns"] = len(turns)
        if provider.kind in ("ours", "rival") and provider.reads in prepared.bytes_per_video:
            row["disk_bytes_per_clip"] = round(prepared.bytes_per_video[provider.reads] / 4)
            row["seconds_to_make"] = round(prepared.seconds_to_make[provider.reads], 1)
        rows.append(row | {"batch_size": job.batch_size, "workers": job.num_workers})
    return rows


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.loader",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, help="folder, CSV, index or pack")
    parser.add_argument("--videos", type=int, default=24, help="at most this many, evenly chosen")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--batches", type=int, default=6, help="timed in each turn, at least")
    parser.add_argument("--warmup", type=int, default=2, help="before the clock starts, at least")
    parser.add_argument("--seconds", type=float, default=4.0, help="timed in each turn, at least")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=available_cpus())
    parser.add_argument(
        "--providers", nargs="+", choices=PROVIDERS, default=list(PROVIDERS), metavar="NAME",
        help=f"of {'; '.join(PROVIDERS)}",
    )  # fmt: skip
    parser.add_argument("--work", type=Path, help="keep the prepared data here")
    parser.add_argument("--out", type=Path, help="results without extension")
    parsed = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = "synthetic" if parsed.data is None else parsed.data.stem
    parsed.out = parsed.out or RESULTS / f"loader_{name}_{device}"
    return parsed


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare, compare, time, write; 1 where a contestant of ours fails or disagrees."""
    parsed = parse(arguments)
    with contextlib.ExitStack() as stack:
        folder = parsed.work
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-loader-")))
        folder = folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        providers = [PROVIDERS[name] for name in parsed.providers]
        try:
            prepared = prepare(
                parsed.data,
                folder,
                num_videos=parsed.videos,
                wanted={provider.reads for provider in providers},
                num_workers=parsed.workers,
            )
            job = Job(
                REFERENCE,
                str(folder),
                min(parsed.batch_size, len(prepared.index)),
                parsed.warmup,
                parsed.batches,
                parsed.workers,
                parsed.seconds,
            )
            environment = lend_ffmpeg(folder / "ffmpeg")
            facts = admit(providers, job, environment)
        except (InputError, FailureError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2 if isinstance(error, InputError) else 1
        names = [
            p.name
            for p in providers
            if p.kind != "control" and facts[p.name]["status"].startswith("ok")
        ]
        samples = measure(names, job, parsed.repeats, environment)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shared = {"data": parsed.out.name, "videos": len(prepared.index)} | describe_machine(device)
    rows = [row | shared for row in to_rows(facts, samples, prepared, job)]
    write_rows(rows, parsed.out)
    plot_loader.draw(rows, parsed.out.with_suffix(".png"))
    text = "\n".join(verdict(rows))
    parsed.out.with_suffix(".txt").write_text(text + "\n")
    print(text)
    return int(any(row["kind"] == "ours" and not _is_well(row["status"]) for row in rows))


def _is_well(status: str) -> bool:
    return status == "ok" or status.startswith("missing")


if __name__ == "__main__":
    sys.exit(main())
