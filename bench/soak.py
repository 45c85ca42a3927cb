"""A soak: load at full speed while files are corrupt, and workers and storage fail at random.

    python -m bench.soak --minutes 30 [--out PATH]
    python -m bench.soak --batches 10000 --tiny --no-attacks

One video in twenty is damaged after indexing. About every two seconds a worker process gets a
SIGKILL, a SIGTERM or a SIGSTOP, or a file cannot be opened for a while: half a second to fifteen,
where a video may take ten. Every batch must show exactly the videos that the order and the rule of
substitution give; each damaged file must be named once, and no good file; no batch may take longer
than five minutes; memory must not grow (bench/parts/soak/report.py says how it is judged). Exits 1
if anything of that fails.
"""

import argparse
import contextlib
import faulthandler
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

if not __package__:  # run as a file
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch

from bench.parts.loader.data import write_set
from bench.parts.results import RESULTS, describe_machine, write_json
from bench.parts.soak.attacks import Attacker
from bench.parts.soak.report import Report, Samples, judge_memory
from fastdual.loaders import files
from fastdual.loaders.index import VideoIndex, build_index
from fastdual.loaders.loader import ClipBatch, ClipLoader
from fastdual.loaders.order import EpochOrder
from fastdual.loaders.plan import ClipSpec

NUM_VIDEOS, NUM_DIFFERENT, ONE_BAD_IN = 80, 4, 20
_BATCH = 8
_HANG_SECONDS = 300
_TIMEOUT_SECONDS = 10.0
TINY = ClipSpec(frames_per_clip=4, resize_height=40, resize_width=57, crop_size=32)


@contextlib.contextmanager
def heard_warnings() -> Iterator[list[str]]:
    """Collect the warnings that the loader gives."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("fastdual.loaders")
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)


def write_data(folder: Path, *, tiny: bool = False) -> tuple[VideoIndex, set[int]]:
    """Write 80 videos, index them, damage one in twenty; return the index and the damaged ones."""
    videos = folder / "videos"
    seconds, scale = (1, 8) if tiny else (2, 1)
    write_set(videos, NUM_VIDEOS, NUM_DIFFERENT, seconds=seconds, scale=scale)
    index = build_index(videos, folder / "index.h5")
    bad = set(range(ONE_BAD_IN // 2, NUM_VIDEOS, ONE_BAD_IN))
    for turn, video in enumerate(sorted(bad)):
        _damage(index.path(video), turn)
    return index, bad


def _damage(path: Path, kind: int) -> None:
    """Damage a file in one of four ways, so that no frame of it can be decoded."""
    contents = path.read_bytes()
    if kind % 4 == 3:
        path.unlink()
        return
    noise = np.random.default_rng(kind).bytes(len(contents))
    path.write_bytes((contents[: len(contents) // 2], b"", noise)[kind % 4])


def expected_videos(order: EpochOrder, epoch: int, step: int, bad: set[int]) -> list[int]:
    """Return the videos of a batch: the next good substitute replaces a bad one."""
    first, _ = order.span(step)
    videos = []
    for offset, video in enumerate(order.batch(epoch, step).tolist()):
        if video in bad:
            substitutes = order.substitutes(epoch, first + offset)
            video = next(other for other in substitutes if other not in bad)
        videos.append(video)
    return videos


def soak(
    folder: Path,
    *,
    minutes: float | None = None,
    batches: int | None = None,
    tiny: bool = False,
    attacks: bool = True,
    seed: int = 0,
    num_workers: int = 2,
) -> Report:
    """Load for an epoch or longer and report; a batch that hangs ends the process with a traceback.

    Args:
        folder: Where the videos are written.
        minutes: Shortest time; None for none.
        batches: Lowest number of batches; None for none.
        tiny: Whether pictures are small.
        attacks: Whether workers are killed and stopped, and files slow.
        seed: Of the order, the plan and the attacks.
        num_workers: Worker processes of the loader.
    """
    index, bad = write_data(folder, tiny=tiny)
    order = EpochOrder(index.split(None), global_batch_size=_BATCH, seed=seed)
    report, samples, listed = Report(), Samples(), folder / "quarantine.jsonl"
    loader = ClipLoader(
        index, TINY if tiny else ClipSpec(), batch_size=_BATCH, seed=seed, decode="pyav",
        num_workers=num_workers, quarantine_path=listed, timeout_seconds=_TIMEOUT_SECONDS,
    )  # fmt: skip
    started = time.monotonic()
    good = [index.path(video) for video in range(len(index)) if video not in bad]
    attacker = Attacker(seed, good, enabled=attacks)
    with heard_warnings() as messages, loader, attacker:
        for epoch, step, batch in _take(loader, minutes or 0.0, batches or 0):
            attacker.batch_came.set()
            expected = expected_videos(order, epoch, step, bad)
            _judge_batch(report, batch, expected, f"epoch {epoch}, step {step}")
            samples.add(time.monotonic() - started, report.batches)
    report.seconds, report.attacks = round(time.monotonic() - started, 1), dict(attacker.done)
    judge_memory(report, samples, batch.clips.nbytes / 2**20)
    judge_quarantine(report, listed, messages, {index.paths[video] for video in bad})
    return report


def _take(loader: ClipLoader, minutes: float, batches: int) -> Iterator[tuple[int, int, ClipBatch]]:
    """Yield epoch, step and batch until enough have come, and an epoch at least is over."""
    started, count = time.monotonic(), 0
    while time.monotonic() - started < 60 * minutes or count < batches or loader.epoch == 0:
        faulthandler.dump_traceback_later(_HANG_SECONDS, exit=True)
        epoch, step = loader.epoch, loader.step
        yield epoch, step, next(iter(loader))
        count += 1
    faulthandler.cancel_dump_traceback_later()


def _judge_batch(report: Report, batch: ClipBatch, expected: list[int], where: str) -> None:
    report.batches += 1
    shown = batch.video_ids.tolist()
    if shown != expected:
        report.problems.append(f"{where} shows {shown} instead of {expected}")
    if not bool(torch.isfinite(batch.clips).all()):
        report.problems.append(f"{where} is not finite")


def judge_quarantine(report: Report, listed: Path, messages: list[str], bad: set[str]) -> None:
    """Add a problem unless the file of the quarantine and the warnings name each bad video once."""
    report.quarantined = sorted(line["path"] for line in files.read_lines(listed))
    if report.quarantined != sorted(bad):
        report.problems.append(f"quarantined {report.quarantined}, damaged were {sorted(bad)}")
    named = Counter(name for message in messages for name in bad if name in message)
    if named != Counter(bad):
        report.problems.append(f"warnings name {dict(named)}, each of {sorted(bad)} must be once")


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak, write the report as JSON, print it; return 1 if something went wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float)
    length.add_argument("--batches", type=int, help="in place of --minutes")
    parser.add_argument("--tiny", action="store_true", help="small pictures, many per second")
    parser.add_argument("--no-attacks", action="store_true", help="leave workers and files alone")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "soak_cpu.json")
    parsed = parser.parse_args(arguments)
    if parsed.minutes is None and parsed.batches is None:
        parsed.minutes = 30.0
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="bench-soak-") as folder:
        report = soak(
            Path(folder),
            minutes=parsed.minutes,
            batches=parsed.batches,
            tiny=parsed.tiny,
            attacks=not parsed.no_attacks,
            seed=parsed.seed,
            num_workers=parsed.workers,
        )
    write_json({**vars(report), **describe_machine(torch.device("cpu"))}, parsed.out)
    attacks = sorted(report.attacks.items())
    print(
        f"{report.batches} batches in {report.seconds:.0f} s; "
        f"attacks: {', '.join(f'{count} {kind}' for kind, count in attacks) or 'none'}; "
        f"{len(report.quarantined)} videos quarantined; memory at most {report.peak_mib} MiB, "
        f"after warm-up {report.slope_mib_per_minute:+} MiB per minute, "
        f"{report.slope_kib_per_batch:+} KiB per batch; the workers' at most "
        f"{report.workers_peak_mib} MiB, {report.workers_slope_kib_per_batch:+} KiB per batch"
        f"{'' if report.memory_judged else ' (too short a run to judge memory)'}"
    )
    for problem in report.problems:
        print(f"PROBLEM: {problem}")
    return int(bool(report.problems))


if __name__ == "__main__":
    sys.exit(main())
