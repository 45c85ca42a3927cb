"""The benchmark of the loader compares what is comparable, and says what is not."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import loader
from bench.parts.loader import data as loader_data

OURS = loader.REFERENCE


def test_agreement_tells_other_pixels_from_other_frames(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    ours = random.normal(size=(2, 4, 3, 2, 8, 8)).astype(np.float32)
    late, early = ours + 0.03, ours - 0.03  # a step of 1.7 of 255
    references = {}
    for name, values in zip((OURS, *loader.CONTROLS), (ours, late, early), strict=True):
        references[name] = tmp_path / f"{name}.npy"
        np.save(references[name], values)

    def status(values: np.ndarray) -> str:  # type: ignore[type-arg]
        np.save(tmp_path / "theirs.npy", values)
        return loader.judge(tmp_path / "theirs.npy", references)["status"]

    assert status(ours + 0.01) == "ok"
    assert status(late) == "ok, but other frames: 2 of 2 videos one frame late"
    assert status(ours + 1) == "disagrees"
    assert status(ours[:, :3]) == "disagrees"


def test_what_is_cut_off_keeps_the_turns_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = iter([dict.fromkeys(loader.FIGURES, 7.0)])

    def run(*_: object) -> dict[str, float]:
        for figures in turns:
            return figures
        raise KeyboardInterrupt

    prepared = loader_data.Prepared(index=[0, 1], bytes_per_video={}, seconds_to_make={})
    monkeypatch.setattr(loader, "prepare", lambda *_, **__: prepared)
    monkeypatch.setattr(loader, "lend_ffmpeg", lambda folder: {})
    monkeypatch.setattr(loader, "admit", lambda *_: {OURS: {"status": "ok"}})
    monkeypatch.setattr(loader, "run", run)
    out = tmp_path / "loader"
    with pytest.raises(KeyboardInterrupt):
        loader.main(["--work", str(tmp_path), "--contestants", OURS, "--out", str(out)])
    (row,) = json.loads(out.with_suffix(".json").read_text())
    assert (row["videos_per_second"], row["turns"]) == (7.0, 1)


def test_a_small_run_writes_table_picture_and_text(tmp_path: Path) -> None:
    loader_data.write_videos(tmp_path / "videos", 2, seconds=2)
    out = tmp_path / "loader"
    arguments = ["--data", str(tmp_path / "videos"), "--batch-size", "2", "--batches", "1"]
    arguments += ["--warmup", "1", "--seconds", "0.3", "--repeats", "1", "--workers", "1"]
    arguments += ["--out", str(out)]
    arguments += [
        "--contestants",
        OURS,
        "PyAV",
        "PyNvVideoCodec",
        "one frame late",
        "bare decode",
        "bare augmentation",
    ]
    assert loader.main(arguments) == 0
    rows = {row["contestant"]: row for row in json.loads(out.with_suffix(".json").read_text())}
    for name in (OURS, "PyAV"):
        assert rows[name]["status"] == "ok"
        assert rows[name]["videos_per_second"] > 0
        assert rows[name]["peak_mib"] > 50
    assert float(rows["PyAV"]["worst_difference"]) < 0.5
    assert rows["one frame late"]["status"].startswith("ok, but other frames")
    assert rows["bare decode"]["videos_per_second"] > 0
    assert rows["bare augmentation"]["videos_per_second"] > 0
    if not torch.cuda.is_available():
        assert rows["PyNvVideoCodec"]["status"] == "missing: needs a CUDA device"
    with out.with_suffix(".csv").open() as file:
        assert len(list(csv.DictReader(file))) == 6
    assert out.with_suffix(".png").stat().st_size > 5000
    assert "PyAV" in out.with_suffix(".txt").read_text()
