"""The last screen of a stage of bench.gpu_check: what ran, what did not, numbers against aims."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from bench.parts.results import Row, read_rows

# What the project aims at, by a part of the device's name: clips per second of a training step of
# R(2+1)D, of four views of 3x16x112x112 in bf16. Its roofline is 36 and 46 % of the peak: it is
# bound by memory. A video gives four clips.
CLIPS_PER_SECOND = {"H200": 2500, "H100": 2000}
TIMES_PAPER = 3.0
DATA_WAIT_SHARE = 0.02
LOSS_ROWS, TIMES_EAGER, TIMES_COMPILED = 16384, 5.0, 2.0
_MOST_NAMES = 6


def screen(stage: str, endings: Sequence[Row], out: Path, machine: dict[str, str]) -> str:
    """Return the screen.

    Args:
        stage: Its name.
        endings: How its jobs ended.
        out: Folder of the results.
        machine: Of `describe_machine`.
    """
    known = {name: machine[name] for name in ("device", "driver", "torch", "commit", "date")}
    lines = [f"{stage}: {', '.join(f'{name} {value}' for name, value in known.items() if value)}"]
    for row in endings:
        took = f"{row['seconds']:.0f} s" if "seconds" in row else ""
        lines.append(f"  {row['job']:28} {row['outcome']:8} {took:>6} {row['note']}".rstrip())
    found = [*_RESULTS[stage](out, machine["device"])]
    lines += [f"  {line}" for line in found or ["no rows"]]
    lines.append(f"  all of it: {out}")
    return "\n".join(lines)


def _verdict(value: float, aim: float, *, below: bool = False) -> str:
    met = value < aim if below else value >= aim
    return "met" if met else "MISSED"


def _clips_aimed_at(device: str) -> int | None:
    return next((aim for name, aim in CLIPS_PER_SECOND.items() if name in device), None)


def _kernels(out: Path, device: str) -> Iterator[str]:
    yield from _tests(read_rows(out / "tests_cuda.json"))
    rows = [row for row in read_rows(out / "losses_cuda.json") if row["mode"] == "both"]
    sizes = {row["rows"] for row in rows}
    if sizes:
        size = LOSS_ROWS if LOSS_ROWS in sizes else max(sizes)
        yield f"losses of {size} rows of 128, {rows[0]['dtype']}, forward and backward:"
        of_size = [row for row in rows if row["rows"] == size]
        for loss, group in groupby(of_size, key=lambda row: row["loss"]):
            yield f"  {loss:20} {_loss({row['contestant']: row for row in group})}"
    for row in read_rows(out / "tiles_cuda.json"):
        if row.get("fastest"):
            yield f"tile {row['kernel']} {row['dtype']} N={row['rows']} D={row['dim']}: " + (
                "the chosen one is the fastest"
                if row["times_chosen"] == 1
                else f"{row['tile']} is {row['times_chosen']:.2f}x the chosen one"
            )


def _loss(rows: dict[str, Row]) -> str:
    if "fastdual" not in rows:
        return "ours was not timed"
    parts = [f"{rows['fastdual']['median_ms']:.3f} ms"]
    for name, aim in (("eager", TIMES_EAGER), ("torch.compile", TIMES_COMPILED)):
        if name in rows:
            ratio = rows[name]["median_ms"] / rows[name]["beside_ms"]
            parts.append(f"{ratio:.2f}x {name} (aim {aim:g}x: {_verdict(ratio, aim)})")
    return ", ".join(parts)


def _tests(rows: Sequence[Row]) -> Iterator[str]:
    if not rows:
        return
    of = {
        outcome: [row for row in rows if row["outcome"] == outcome]
        for outcome in ("passed", "failed", "not collected", "skipped")
    }
    counts = ", ".join(f"{len(found)} {outcome}" for outcome, found in of.items() if found)
    yield f"tests: {counts}"
    for row in [*of["failed"], *of["not collected"]][:_MOST_NAMES]:
        yield f"  FAILED {row['test']}: {row['note'][:100]}"
    reasons: dict[str, list[str]] = {}
    for row in of["skipped"]:
        reasons.setdefault(row["note"], []).append(row["test"].rpartition("::")[2])
    for reason, names in reasons.items():
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        yield f"  not run ({reason}): {', '.join(names[:_MOST_NAMES])}{more}"


def _step(out: Path, device: str) -> Iterator[str]:
    for row in read_rows(out / "train_cuda.json"):
        name = f"{row['contestant']}, {row['videos']} videos"
        if row["status"] != "ok":
            yield f"{name}: {row['status']}, off by {row['max_error']}"
            continue
        line = (
            f"{name}: {row['step_ms']:.1f} ms, {row['clips_per_second']:.0f} clips/s, "
            f"{row['utilisation']:.0%} of a product's rate, {row['peak_mib'] / 1024:.1f} GiB"
        )
        if row["contestant"] == "ours" and row["videos"] >= 64:
            aim = _clips_aimed_at(device)
            told = f"aim {aim}: {_verdict(row['clips_per_second'], aim)}" if aim else "no aim here"
            yield f"{line} ({told})"
        elif row["contestant"] == "paper":
            ratio = row["step_ms"] / row["beside_ms"]
            told = f"aim {TIMES_PAPER:g}: {_verdict(ratio, TIMES_PAPER)}"
            yield f"{line}; {row['beside']} is {ratio:.2f}x as fast ({told})"
        elif row["contestant"] != row["beside"]:
            yield f"{line}, {row['beside_ms'] / row['step_ms']:.3f}x {row['beside']}"
        else:
            yield line


def _decode(out: Path, device: str) -> Iterator[str]:
    rows = read_rows(out / "canary_cuda.json")
    if rows:
        wrong = [row for row in rows if row["verdict"] not in ("same", "left to PyAV")]
        by = Counter(row["decoder"] for row in rows)
        left = by.pop("pyav", 0)
        right = len(rows) - left - len(wrong)
        yield f"canary: {right} of {len(rows) - left} videos show what PyAV shows (aim: all)"
        yield f"  decoded by {', '.join(f'{name} {count}' for name, count in by.items() if name)}"
        kinds = sorted({row["kind"] for row in rows if row["decoder"] == "pyav"})
        if left:
            yield f"  left to PyAV: {left}, of the kinds {', '.join(kinds)}"
        for row in wrong[:_MOST_NAMES]:
            yield f"  {row['video']} ({row['kind']}): {row['verdict']}, off by {row['difference']}"
    lanes = read_rows(out / "lanes_cuda.json")
    yield from _rates([row for row in lanes if row["status"] == "ok"], device)
    for row in [row for row in lanes if row["status"] != "ok"][:_MOST_NAMES]:
        yield f"{row['data']} with {row['how']}: {row['status']}"


def _rates(rows: Sequence[Row], device: str) -> Iterator[str]:
    """The fastest of each data set, and what a training step asks for."""
    aim = _clips_aimed_at(device)
    for data in dict.fromkeys(row["data"] for row in rows):
        best = max((r for r in rows if r["data"] == data), key=lambda r: r["videos_per_second"])
        rate, asked = best["videos_per_second"], (aim or 0) / 4
        told = f" (a step asks for {asked:.0f}: {_verdict(rate, asked)})" if aim else ""
        yield f"{data}: {rate:.1f} videos/s with {best['how']}{told}"


def _contention(out: Path, device: str) -> Iterator[str]:
    aim = _clips_aimed_at(device)
    for row in read_rows(out / "contention_cuda.json"):
        if "beside_videos_per_second" not in row:
            yield f"{row['loader']}: {row['status']}"
            continue
        rate, asked = row["beside_videos_per_second"], (aim or 0) / 4
        told = f" (a step asks for {asked:.0f}: {_verdict(rate, asked)})" if aim else ""
        yield (
            f"{row['loader']}: {row['alone_videos_per_second']:.1f} videos/s alone, {rate:.1f} "
            f"beside convolutions{told}, which take {row['slowdown'] or '?'}x as long"
        )
    for row in read_rows(out / "pack_train_cuda.json"):
        if "real_data_wait_share" in row:
            share = row["real_data_wait_share"]
            told = _verdict(share, DATA_WAIT_SHARE, below=True)
            yield (
                f"training from a pack: {share:.1%} of the time waiting for data "
                f"(aim: below {DATA_WAIT_SHARE:.0%}: {told})"
            )


def _learn(out: Path, device: str) -> Iterator[str]:
    rows = read_rows(out / "learn_cuda.json")
    if len(rows) < 2:
        return
    tenth = max(1, len(rows) // 10)  # one reading is of few clips

    def ends(name: str) -> tuple[float, float]:
        first, last = ([row[name] for row in part] for part in (rows[:tenth], rows[-tenth:]))
        return sum(first) / tenth, sum(last) / tenth

    yield f"{rows[-1]['step']} steps; means of the first and the last {tenth} readings:"
    before, after = ends("loss")
    falls = _verdict(after, before, below=True)
    yield f"loss {before:.3f} -> {after:.3f} (aim: falls: {falls})"
    before, after = ends("rank_accuracy")
    rises = _verdict(before, after, below=True)
    yield f"rank accuracy {before:.3f} -> {after:.3f} (aim: rises: {rises})"


_RESULTS: dict[str, Callable[[Path, str], Iterator[str]]] = {
    "kernels": _kernels,
    "step": _step,
    "decode": _decode,
    "contention": _contention,
    "learn": _learn,
}
