"""The results of bench.loader, bench.train and bench.losses as the README's tables, by device."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.parts.common import Row, markdown_table
from bench.parts.loader.verdict import limit_of

_VIDEOS = {
    "mlr511": "mlr511 (H.264, 960x540, 2 to 5 s)",
    "ut_interaction": "ut_interaction (MPEG-4, 128 to 612 x 212 to 332, 2 to 6 s)",
    "written": "written (H.264, 340x256, 10 s)",
}
_KINDS = ("ours", "rival")
_TRAIN = ("paper", "eager", "ours")
_OURS, _DIM = "fastdual", 128


def speed(results: Path) -> str:
    """All tables, each under a sentence that says what was measured on what."""
    parts: list[str] = []
    for stem, table in (("loader", _loader), ("train", _train), ("losses", _losses)):
        rows = [row for path in sorted(results.glob(f"{stem}_*.json")) for row in _read(path)]
        for device in dict.fromkeys(row["device"] for row in rows):
            parts += table([row for row in rows if row["device"] == device])
    return "\n\n".join(parts)


def _read(path: Path) -> list[Row]:
    rows: list[Row] = json.loads(path.read_text())
    return rows


def _machine(rows: Sequence[Row]) -> str:
    row = rows[0]
    threads = {"": "", "1": ", 1 thread"}.get(row["threads"], f", {row['threads']} threads")
    return f"{row['device']}{threads}, torch {row['torch']}, {row['date']}"


def _loader(rows: Sequence[Row]) -> Iterator[str]:
    sets = list(dict.fromkeys(row["data"] for row in rows))
    timed = {(row["data"], row["provider"]): row for row in rows if row.get("turns")}
    names = list(
        dict.fromkeys(row["provider"] for kind in _KINDS for row in rows if row["kind"] == kind)
    )
    body = []
    for name in names:
        found = [timed.get((data, name)) for data in sets]
        if any(found):
            body.append([name, *("-" if row is None else _rate(row) for row in found)])
    limits = [limit_of([row for row in rows if row["data"] == data]) for data in sets]
    body.append(
        ["limit of raw files", *("-" if limit is None else f"{limit:.1f}" for limit in limits)]
    )
    titles = [data.removeprefix("loader_").rpartition("_")[0] for data in sets]
    yield (
        f"Loading, videos a second with {rows[0]['workers']} workers ({_machine(rows)}; "
        "`python -m bench.loader`). Everyone loads the same videos by the same plan into the same "
        "four augmented views of 16 frames; *: numbers the frames of these files otherwise. The "
        "limit is a bare decode of just the wanted frames and bare augmentation, added up."
    )
    yield markdown_table(["", *(_VIDEOS.get(title, title) for title in titles)], body)


def _rate(row: Row) -> str:
    return f"{row['videos_per_second']:.1f}{'' if row['status'] == 'ok' else ' *'}"


def _train(rows: Sequence[Row]) -> Iterator[str]:
    cases = list(dict.fromkeys((row["backbone"], row["videos"], row["clip"]) for row in rows))
    body = []
    for case in cases:
        of_case = {
            row["contestant"]: row
            for row in rows
            if (row["backbone"], row["videos"], row["clip"]) == case and row["status"] == "ok"
        }
        cells = [
            f"{of_case[name]['step_ms']:.1f} ({of_case[name]['clips_per_second']:.0f})"
            if name in of_case
            else "-"
            for name in _TRAIN
        ]
        body.append([f"{case[0]}, {case[1]} videos of 4 views {case[2]}", *cells])
    yield (
        f"Training, ms a step and clips a second in brackets ({_machine(rows)}; "
        "`python -m bench.train`)."
    )
    yield markdown_table(["", "the paper's way", "plain eager", "ours"], body)


def _losses(rows: Sequence[Row]) -> Iterator[str]:
    both = [row for row in rows if row["mode"] == "both" and row["status"] == "ok"]
    for dtype in dict.fromkeys(row["dtype"] for row in both):
        shown = [row for row in both if row["dtype"] == dtype and row["dim"] == _DIM]
        body = [
            _loss([row for row in shown if row["loss"] == loss])
            for loss in dict.fromkeys(row["loss"] for row in shown)
        ]
        yield (
            f"Losses of rows of {_DIM} numbers in {dtype}, forward and backward, ms and peak MiB "
            f"in brackets ({_machine(rows)}; `python -m bench.losses`)."
        )
        yield markdown_table(["", "rows", "eager", "torch.compile", "ours", "peers"], body)


def _loss(rows: Sequence[Row]) -> list[str]:
    """One loss at the most rows that were timed."""
    most = max(row["rows"] for row in rows)
    cells = {
        row["provider"]: f"{row['median_ms']:.0f} ({row['peak_mib']:.0f})"
        for row in rows
        if row["rows"] == most
    }
    known = [cells.pop(name, "-") for name in ("eager", "torch.compile", _OURS)]
    peers = "; ".join(f"{name} {cell}" for name, cell in cells.items()) or "-"
    return [rows[0]["loss"], str(most), *known, peers]
