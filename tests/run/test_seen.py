"""Measuring on videos that a network was pretrained on is noticed, in whatever index they come."""

import json
from pathlib import Path

import numpy as np
import pytest

from fastdual.loaders.index import build_index
from fastdual.run.seen import note_videos, seen, trained_on
from tests.loaders.clips import encode
from tests.runs import arguments, invoke

QUICK = ["--clips-per-video", "1", "--workers", "1", "--device", "cpu", "--allow-overlap"]


def checksums(*values: int) -> np.ndarray:
    rows = np.zeros((len(values), 32), np.uint8)
    rows[:, 0] = values
    rows[:, 7] = 255
    return rows


def test_videos_are_counted_by_their_checksums(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    checkpoint = tmp_path / "checkpoints" / "step-1.pt"
    assert trained_on(checkpoint) is None and not seen(None, checksums(1)).any()
    note_videos(tmp_path, checksums(3, 1, 2, 1))
    assert seen(trained_on(checkpoint), checksums(9, 2, 3)).tolist() == [False, True, True]
    assert trained_on(tmp_path / "step-1.pt") is None  # not in a run's folder


@pytest.mark.parametrize("damage", [b"", b"no array", b"\x93NUMPY\x01\x00"])
def test_a_damaged_list_is_as_none(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "trained_on.npy").write_bytes(damage)
    assert trained_on(tmp_path / "checkpoints" / "x.pt") is None


@pytest.mark.needs("av", "h5py")
def test_a_run_on_all_videos_is_marked_where_their_test_videos_are_measured(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    for number in range(8):
        name = ("run", "walk")[number % 2]
        encode(videos / name / f"{number}.mp4", 12 + number, gop=5, fps=5 + number)
    build_index(videos, tmp_path / "all.h5", num_workers=1)
    run = tmp_path / "run"
    short = {"schedule__epochs": 1, "schedule__milestones": "[]"}
    assert invoke(arguments(tmp_path / "all.h5", run, **short)).exit_code == 0
    rows = [
        f"{('run', 'walk')[n % 2]}/{n}.mp4,{('run', 'walk')[n % 2]},{'test' if n > 4 else 'train'}"
        for n in range(8)
    ]
    encode(videos / "new" / "9.mp4", 20, gop=5, fps=19)
    (videos / "split.csv").write_text("\n".join(["path,label,split", *rows, "new/9.mp4,run,test"]))
    done = invoke(["knn", str(run), str(videos / "split.csv"), *QUICK, "--k", "1"])
    assert done.exit_code == 0, done.output
    assert "warning: the network was pretrained on 3 of the 4 test videos (test)" in done.stdout
    (result,) = (run / "results").glob("knn*.json")
    assert json.loads(result.read_text())["splits"][0]["pretrained_on"] == 3
    features = tmp_path / "f.h5"
    small = ["--clips-per-video", "1", "--workers", "1"]
    embedded = invoke(["embed", str(run), str(videos / "split.csv"), "-o", str(features), *small])
    assert "pretrained on 8 of these 9 videos" in embedded.stdout
    again = invoke(["knn", str(features), "--k", "1", "--allow-overlap"])
    assert "warning: the network was pretrained on 3 of the 4 test videos (test)" in again.stdout
    table = invoke(["table", str(run)]).stdout
    assert "test (" in table and "3 of 4 pretrained on)" in table
    baseline = invoke(["knn", str(run), str(videos / "split.csv"), *QUICK, "--random-weights"])
    assert baseline.exit_code == 0 and "pretrained on" not in baseline.stdout
