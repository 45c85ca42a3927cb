"""The benchmark of the loader compares what is comparable, and says what is not."""

import csv
import importlib.util
import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import loader
from bench.parts.loader import data as loader_data
from bench.parts.loader import dataset as loader_dataset
from bench.parts.loader import decoders
from fastdual.loaders.batch.reader import unique_frames
from fastdual.loaders.index import build_index
from fastdual.loaders.plan import ClipSpec, draw_plan
from tests.loaders.clips import encode, read_frames, read_number
from tests.loaders.views.augment_reference import reference_views

OURS = loader.REFERENCE


def test_contestants_augment_as_the_float64_reference_does() -> None:
    spec = ClipSpec(frames_per_clip=4, resize_height=40, resize_width=57, crop_size=32)
    video = np.random.default_rng(0).integers(0, 256, (30, 40, 57, 3), np.uint8)
    for number in range(4):
        plan = draw_plan(
            spec, seed=number, epoch=0, videos=np.array([0]), num_frames=np.array([30])
        )
        (wanted,), order = unique_frames(plan)
        views = loader_dataset.augment(torch.from_numpy(video[wanted]), plan, order, spec)
        expected = reference_views(video, plan, spec)
        assert np.allclose(views.permute(0, 2, 3, 4, 1).numpy(), expected, atol=2e-3)


def test_threads_yield_the_batches_of_a_dataloader_and_run_ahead_by_a_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(tmp_path / "videos" / "a.mp4", 12)
    encode(tmp_path / "videos" / "b.mp4", 9)
    index = build_index(tmp_path / "videos", tmp_path / "x.h5", num_workers=1)
    spec = ClipSpec(frames_per_clip=4, resize_height=36, resize_width=48, crop_size=32)
    asked: list[int] = []
    original = loader_dataset.VideoDataset.__getitem__

    def note(dataset: loader_dataset.VideoDataset, number: int) -> torch.Tensor:
        asked.append(number)
        return original(dataset, number)

    dataset = loader_dataset.VideoDataset(
        index, spec, decoders.pyav, batch_size=2, num_batches=1000
    )
    expected = list(islice(loader_dataset.under_dataloader(dataset, num_workers=0), 3))
    monkeypatch.setattr(loader_dataset.VideoDataset, "__getitem__", note)
    batches = loader_dataset.under_threads(dataset, num_workers=2)
    for ours, theirs in zip(expected, batches, strict=False):
        assert torch.equal(ours, theirs)
    batches.close()
    assert len(asked) < 20  # of 2,000


def test_the_controls_are_wrong_by_one_frame(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", 20, b_frames=2)
    wanted, size = np.array([0, 3, 4, 19]), (48, 64)
    exact, late, early = (
        decode(path, wanted, size).numpy()
        for decode in (
            decoders.pyav,
            decoders.one_frame_late,
            decoders.one_frame_early,
        )
    )
    assert [read_number(picture) for picture in exact] == [0, 3, 4, 19]
    assert [read_number(picture) for picture in late] == [0, 2, 3, 18]
    assert [read_number(picture) for picture in early] == [1, 4, 5, 19]


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


def test_the_verdict_names_losses_and_what_is_missing() -> None:
    def row(contestant: str, kind: str, rate: float) -> dict[str, object]:
        figures = {"videos_per_second": rate, "cpu_ms_per_video": 1000 / rate, "turns": 1}
        return {"contestant": contestant, "kind": kind, "status": "ok", **figures}

    rows = [
        row(OURS, "ours", 10.0),
        row("a", "theirs", 20.0),
        row("bare decode", "limit", 20.0),
        row("bare augmentation", "limit", 60.0),
        {"contestant": "b", "kind": "theirs", "status": "missing: b is not installed"},
        {
            "contestant": "one frame late",
            "kind": "control",
            "status": "ok",
            "worst_difference": "1",
        },
    ]
    text = "\n".join(loader.verdict(rows))
    assert "2.00 times SLOWER than (a loss to) the best other contestant, a" in text
    assert "limit: 15.0 videos/s" in text and "reaches 67 % of it" in text
    assert "b: missing" in text
    assert "NOT CAUGHT" in text


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


@pytest.mark.skipif(
    importlib.util.find_spec("decord") is None,
    reason="decord is not installed",
)
def test_decord_numbers_frames_as_we_do(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", 20, b_frames=2)
    wanted = np.array([0, 3, 4, 19])
    theirs = decoders.decord(path, wanted, (48, 64)).numpy().astype(int)
    assert np.abs(theirs - read_frames(path, wanted, size=(48, 64))).mean() < 4
