"""The first hour on class folders without splits: every command that the README names works."""

import csv
import json
from pathlib import Path

import pytest

from fastdual.evaluate.results import read_result
from tests.evaluate.small import small_checkpoint
from tests.loaders.clips import encode
from tests.runs import arguments, invoke

QUICK = ["--workers", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of five videos, each of its own colours and length."""
    folder = tmp_path_factory.mktemp("classes")
    for number in range(10):
        name = ("run", "walk")[number % 2]
        encode(folder / name / f"{number}.mp4", 12 + number, gop=5, fps=5 + number)
    return folder


@pytest.fixture(scope="module")
def run(classes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    done = invoke(arguments(classes, folder, schedule__epochs=1, schedule__milestones="[]"))
    assert done.exit_code == 0, done.output
    assert f"next        fastdual report {folder} {classes}" in done.stderr
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ["retrieve", "--clips-per-video", "1", "--allow-overlap"],
        ["probe", "--clips-per-video", "1", "--allow-overlap"],
        ["knn", "--clips-per-video", "1", "--allow-overlap"],
        ["report", "--clips-per-video", "1", "--allow-overlap"],
        ["pretext"],
    ],
    ids=lambda words: words[0],
)
def test_evaluations_hold_out_test_videos_and_say_so(
    words: list[str], classes: Path, run: Path
) -> None:
    done = invoke([*words, str(run), str(classes), *QUICK])
    assert done.exit_code == 0, done.output
    assert "split     none is named: 2 of 10 videos are held out as test" in done.stderr
    embeds_for_itself = "fastdual embed keeps them" in done.stderr
    assert embeds_for_itself == (words[0] in ("retrieve", "probe", "knn"))
    (saved,) = (run / "results").glob("held-out-*.csv")
    assert str(saved) in done.stderr and "--test-share" in done.stderr
    splits = {row["path"]: row["split"] for row in csv.DictReader(saved.open())}
    assert sorted(splits.values()) == ["test"] * 2 + ["train"] * 8
    for file in (run / "results").glob(f"{words[0]}-*.json"):
        assert read_result(file)["splits"][0]["held_out"] == {
            "by": "video",
            "share": 0.2,
            "seed": 0,
        }


def test_fine_tuning_holds_out_test_videos(classes: Path, run: Path, tmp_path: Path) -> None:
    words = ["finetune", str(run), str(classes), "--run", str(tmp_path / "ft"), "--freeze"]
    quick = ["--device", "cpu", "--epochs", "1", "--batch-size", "4", "--allow-overlap"]
    sizes = ["--set", "clip.clips_per_video=1", "--set", "data.num_workers=1"]
    sizes += ["--set", "schedule.milestones=[]", "--test-share", "0.4"]
    done = invoke([*words, *quick, *sizes])
    assert done.exit_code == 0, done.output
    assert "4 of 10 videos are held out as test" in done.stderr
    (result,) = (tmp_path / "ft" / "results").glob("*.json")
    assert json.loads(result.read_text())["splits"][0]["held_out"]["share"] == 0.4
    assert len([*(tmp_path / "ft" / "results").glob("held-out-*.csv")]) == 1


def test_features_without_splits_are_divided(classes: Path, tmp_path: Path) -> None:
    features = tmp_path / "f.h5"
    how = ["--clips-per-video", "1", *QUICK]
    done = invoke(["embed", str(small_checkpoint()), str(classes), "-o", str(features), *how])
    assert done.exit_code == 0, done.output
    done = invoke(["retrieve", str(features)])
    assert done.exit_code == 0, done.output
    assert "2 of 10 videos are held out as test" in done.stderr


def test_labels_are_asked_for_before_anything_is_embedded(tmp_path: Path) -> None:
    for number in range(3):
        encode(tmp_path / f"{number}.mp4", 12 + number)
    for command in ("probe", "knn"):  # retrieve shows the nearest of each, see test_retrieve
        done = invoke([command, str(small_checkpoint()), str(tmp_path), *QUICK])
        assert done.exit_code == 2, done.output
        assert "have no label" in done.stderr and "embedding" not in done.stderr


def test_one_video_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    film = encode(tmp_path / "film.mp4", 12)
    for command in ("retrieve", "probe", "knn", "report", "pretext"):
        done = invoke([command, str(small_checkpoint()), str(film), *QUICK])
        assert done.exit_code == 2, done.output
        assert "1 videos cannot be divided into training and test videos" in done.stderr
