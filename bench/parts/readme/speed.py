"""The results of bench.loader, bench.train and bench.losses as tables, per device."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.parts.loader.verdict import limit_of
from bench.parts.markdown import markdown_table
from bench.parts.results import Row, read_rows

_VIDEOS = {
    "mlr511": "mlr511 (H.264, 960x540, 2 to 5 s)",
    "ut_interaction": "ut_interaction (MPEG-4, 128 to 612 x 212 to 332, 2 to 6 s)",
    "written": "written (H.264, 340x256, 10 s)",
}
_DIM = 128


def speed(results: Path) -> str:
    """Return all tables, each below a sentence that says what was measured on which machine.

    Args:
        results: Folder with loader_*.json, contention_*.json, train_*.json and losses_*.json.
    """
    parts: list[str] = []
    for stem, table in _TABLES:
        rows = [row for path in sorted(results.glob(f"{stem}_*.json")) for row in read_rows(path)]
        for device in dict.fromkeys(row["device"] for row in rows):
            parts += table([row for row in rows if row["device"] == device])
    return "\n\n".join(parts)


def _machine(rows: Sequence[Row]) -> str:
    row = rows[0]
    threads = {"": "", "1": ", 1 thread"}.get(row["threads"], f", {row['threads']} threads")
    return f"{row['device']}{threads}, torch {row['torch']}, {row['date']}"


def _loader(rows: Sequence[Row]) -> Iterator[str]:
    sets = list(dict.fromkeys(row["data"] for row in rows))
    rates = {(row["data"], row["contestant"]): _rate(row) for row in rows if row.get("turns")}
    names = [
        row["contestant"] for kind in ("ours", "theirs") for row in rows if row["kind"] == kind
    ]
    body = []
    for name in dict.fromkeys(names):
        cells = [rates.get((data, name), "-") for data in sets]
        if cells != ["-"] * len(sets):
            body.append([name, *cells])
    limits = [limit_of([row for row in rows if row["data"] == data]) for data in sets]
    body.append(["bare decoding of raw files", *("-" if x is None else f"{x:.1f}" for x in limits)])
    titles = [data.removeprefix("loader_").rpartition("_")[0] for data in sets]
    yield (
        f"Loading, videos per second with {rows[0]['workers']} workers ({_machine(rows)}; "
        "`python -m bench.loader`). All contestants load the same videos by the same plan into the "
        "same four augmented views of 16 frames; *: numbers the frames of these files differently. "
        "The last row is the most that raw files allow: the wanted frames decoded and augmented, "
        "and nothing else."
    )
    yield markdown_table(["", *(_VIDEOS.get(title, title) for title in titles)], body)


def _rate(row: Row) -> str:
    return f"{row['videos_per_second']:.1f}{'' if row['status'] == 'ok' else ' *'}"


def _contention(rows: Sequence[Row]) -> Iterator[str]:
    timed = [row for row in rows if row["status"] == "ok"]
    if not timed:
        return
    yield (
        f"Loading while the same GPU trains, videos per second ({_machine(rows)}; "
        "`python -m bench.gpu_check --stage contention`)."
    )
    body = [
        [row["loader"], f"{row['alone_videos_per_second']:.1f}",
         f"{row['beside_videos_per_second']:.1f}", f"{row['slowdown'] or '?'}x"]
        for row in timed
    ]  # fmt: skip
    yield markdown_table(["", "alone", "beside a training", "its steps take"], body)


def _train(rows: Sequence[Row]) -> Iterator[str]:
    cells: dict[str, dict[str, str]] = {}
    for row in rows:
        of_case = cells.setdefault(
            f"{row['backbone']}, {row['videos']} videos of 4 views {row['clip']}", {}
        )
        if row["status"] == "ok":
            of_case[row["contestant"]] = f"{row['step_ms']:.1f} ({row['clips_per_second']:.0f})"
    yield (
        f"Training, ms per step, and clips per second in brackets ({_machine(rows)}; "
        "`python -m bench.train`)."
    )
    shown = ("paper", "eager", "ours")
    yield markdown_table(
        ["", "as the paper's code", "plain eager", "ours"],
        [[case, *(of.get(name, "-") for name in shown)] for case, of in cells.items()],
    )


def _losses(rows: Sequence[Row]) -> Iterator[str]:
    both = [row for row in rows if row["mode"] == "both" and row["status"] == "ok"]
    for dtype in dict.fromkeys(row["dtype"] for row in both):
        shown = [row for row in both if row["dtype"] == dtype and row["dim"] == _DIM]
        body = [
            _loss([row for row in shown if row["loss"] == loss])
            for loss in dict.fromkeys(row["loss"] for row in shown)
        ]
        yield (
            f"Losses of rows of {_DIM} numbers in {dtype}, forward and backward, ms, and peak MiB "
            f"in brackets ({_machine(rows)}; `python -m bench.losses`)."
        )
        head = ["", "rows", "eager", "torch.compile", "ours", "other contestants"]
        yield markdown_table(head, body)


def _loss(rows: Sequence[Row]) -> list[str]:
    """Return the cells of one loss, at the largest number of rows that was timed."""
    most = max(row["rows"] for row in rows)
    cells = {
        row["contestant"]: f"{row['median_ms']:.0f} ({row['peak_mib']:.0f})"
        for row in rows
        if row["rows"] == most
    }
    known = [cells.pop(name, "-") for name in ("eager", "torch.compile", "fastdual")]
    others = "; ".join(f"{name} {cell}" for name, cell in cells.items()) or "-"
    return [rows[0]["loss"], str(most), *known, others]


_TABLES = (
    ("loader", _loader),
    ("contention", _contention),
    ("train", _train),
    ("losses", _losses),
)
