"""The README's tables of speed: nothing measured is left out, nothing unmeasured is shown."""

import json
from pathlib import Path

from bench.parts.readme import speed as speed_summary

MACHINE = {"device": "A", "threads": "2", "torch": "2", "date": "2026-01-01", "workers": 2}


def _loader(data: str, contestant: str, kind: str, rate: float | None, status: str = "ok"):
    row = {"data": f"loader_{data}_cpu", "contestant": contestant, "kind": kind, "status": status}
    timed = {} if rate is None else {"videos_per_second": rate, "turns": 3}
    return {**MACHINE, **row, **timed}


def _write(folder: Path, name: str, rows: list[dict[str, object]]) -> None:
    (folder / f"{name}.json").write_text(json.dumps(rows))


def test_loader_table_has_a_column_for_each_set_and_a_dash_for_what_was_not_timed(tmp_path) -> None:
    first = [
        _loader("a", "ours", "ours", 40.0),
        _loader("a", "theirs", "theirs", 10.0, "ok, but other frames"),
        _loader("a", "nvdec", "ours", None, "missing: needs a CUDA device"),
        _loader("a", "bare decode", "limit", 60.0),
        _loader("a", "bare augmentation", "limit", 120.0),
        _loader("a", "one frame late", "control", None, "ok, but other frames"),
    ]
    _write(tmp_path, "loader_a_cpu", first)
    _write(tmp_path, "loader_b_cpu", [_loader("b", "ours", "ours", 7.0)])
    text = speed_summary.speed(tmp_path)
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert table == [
        "| | a | b |",
        "|---|---|---|",
        "| ours | 40.0 | 7.0 |",
        "| theirs | 10.0 * | - |",
        "| bare decoding of raw files | 40.0 | - |",
    ]
    assert "with 2 workers (A, 2 threads, torch 2, 2026-01-01;" in text


def test_every_device_has_tables_of_its_own(tmp_path) -> None:
    _write(tmp_path, "loader_a_cpu", [_loader("a", "ours", "ours", 7.0)])
    gpu = _loader("a", "ours", "ours", 70.0) | {"device": "G", "threads": ""}
    _write(tmp_path, "loader_a_cuda", [gpu])
    text = speed_summary.speed(tmp_path)
    assert text.count("Loading, videos per second") == 2
    assert "(G, torch 2, 2026-01-01;" in text and "| ours | 70.0 |" in text


def test_contention_shows_what_was_timed(tmp_path) -> None:
    rates = {"alone_videos_per_second": 900.0, "beside_videos_per_second": 450.04}
    rows = [
        MACHINE | {"loader": "NVDEC, pack", "status": "ok", "slowdown": 1.25} | rates,
        MACHINE | {"loader": "NVDEC, raw videos", "status": "not run: needs DALI"},
    ]
    _write(tmp_path, "contention_cuda", rows)
    text = speed_summary.speed(tmp_path)
    assert "| NVDEC, pack | 900.0 | 450.0 | 1.25x |" in text and "raw videos" not in text
    _write(tmp_path, "contention_cuda", rows[1:])
    assert speed_summary.speed(tmp_path) == ""


def test_losses_are_shown_at_the_most_rows_with_whoever_agreed(tmp_path) -> None:
    def row(contestant: str, rows: int, milliseconds: float, **more: object) -> dict[str, object]:
        given = {"loss": "clip", "contestant": contestant, "rows": rows, "dim": 128, "mode": "both"}
        measured = {"median_ms": milliseconds, "peak_mib": 3.0, "dtype": "float32"}
        return {**MACHINE, **given, **measured, "status": "ok", **more}

    rows = [
        row("eager", 64, 1.0),
        row("eager", 4096, 600.0),
        row("torch.compile", 4096, 300.0, status="disagrees"),
        row("fastdual", 4096, 200.0),
        row("open_clip", 4096, 400.0),
        row("another", 4096, 500.0),
        row("eager", 4096, 9.0, mode="forward"),
        row("eager", 512, 7.0, loss="rank"),
        row("fastdual", 4096, 20.0, dtype="bfloat16"),
    ]
    _write(tmp_path, "losses_cpu", rows)
    table = [line for line in speed_summary.speed(tmp_path).splitlines() if "(" in line]
    assert table[1:3] == [
        "| clip | 4096 | 600 (3) | - | 200 (3) | open_clip 400 (3); another 500 (3) |",
        "| rank | 512 | 7 (3) | - | - | - |",
    ]
    assert "bfloat16" in table[3]
    assert table[4] == "| clip | 4096 | - | - | 20 (3) | - |"


def test_training_is_shown_by_case(tmp_path) -> None:
    def row(backbone: str, contestant: str, **more: object) -> dict[str, object]:
        given = {"backbone": backbone, "videos": 4, "clip": "3x8x48x48", "contestant": contestant}
        measured = {"step_ms": 50.04, "clips_per_second": 319.7, "status": "ok"}
        return {**MACHINE, **given, **measured, **more}

    rows = [
        row("tiny", "paper"),
        row("tiny", "ours", step_ms=40.0),
        row("r2plus1d", "paper", status="out of memory"),
        row("r2plus1d", "ours"),
        row("tiny", "ours, padded"),
    ]
    _write(tmp_path, "train_cpu", rows)
    assert speed_summary.speed(tmp_path).splitlines()[-2:] == [
        "| tiny, 4 videos of 4 views 3x8x48x48 | 50.0 (320) | - | 40.0 (320) |",
        "| r2plus1d, 4 videos of 4 views 3x8x48x48 | - | - | 50.0 (320) |",
    ]
