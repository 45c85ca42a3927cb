"""Pictures: drawn from real logs and features, written whole, with the numbers they should show."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from fastdual.errors import FailureError, InputError
from fastdual.report.draw import draw_feature_map, draw_training_curves
from fastdual.report.feature_map import feature_map
from fastdual.report.plots import draw_map, save_figure, segment_similarity, training_curves
from fastdual.report.projection import project
from fastdual.report.runs import RunCurves, distinct_names, read_curves
from tests.evaluate.test_features import feature_set


@pytest.fixture(autouse=True)
def no_warning() -> object:
    """matplotlib warns of what looks wrong: clipped layouts, missing glyphs, ignored colours."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def write_log(run: Path, readings: int, *, broken_line: bool = False) -> Path:
    run.mkdir()
    lines = [json.dumps({"event": "start", "step": 0, "time": 1.0})]
    for i in range(readings):
        values = {"loss": 8 / (i + 1), "clip": None if i == 1 else 1.0, "clip_top1": i / readings}
        lines.append(json.dumps({"event": "train", "step": i, "epoch": i / 2, **values}))
    text = "\n".join(lines) + "\n"
    (run / "log.jsonl").write_text(text + ('{"event": "tr' if broken_line else ""))
    return run


def panel_titles(figure: Figure) -> list[str]:
    return [ax.get_title() for ax in figure.axes]


def test_log_of_a_killed_run_is_read_up_to_its_broken_line(tmp_path: Path) -> None:
    curves = read_curves(write_log(tmp_path / "a", 3, broken_line=True), "a")
    assert curves.name == "a"
    assert curves.epochs.tolist() == [0.0, 0.5, 1.0]
    assert curves.values["loss"].tolist() == [8.0, 4.0, 8 / 3]
    assert np.isnan(curves.values["clip"]).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "it holds no log.jsonl"),
        ("", "no reading of the training yet"),
        ("[]\n7\n", "no reading"),
        ('{"event": "train"}\n{"event": "train", "step": 1, "epoch": "x"}\n', "no reading"),
    ],
)
def test_folder_without_readings_is_named(
    tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "log.jsonl").write_text(content)
    with pytest.raises(InputError, match=message):
        read_curves(tmp_path, "x")


def test_names_are_as_long_as_it_takes_to_tell_paths_apart() -> None:
    assert distinct_names([Path("x/lr0.1"), Path("x/b.h5")]) == ["lr0.1", "b"]
    assert distinct_names([Path("x/run"), Path("y/run"), Path("y/b")]) == ["x-run", "y-run", "y-b"]
    assert distinct_names([Path("x/run"), Path("x/run")]) == ["run", "run"]
    assert distinct_names([]) == []


@pytest.mark.parametrize("readings", [1, 5, 300])
def test_curves_of_two_runs_share_their_panels(tmp_path: Path, readings: int) -> None:
    runs = [read_curves(write_log(tmp_path / name, readings), name) for name in "ab"]
    figure = training_curves(runs)
    assert panel_titles(figure) == ["loss, total", "clip contrast", "clip contrast, top-1"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    assert {ax.get_xlabel() for ax in figure.axes} == {"epoch"}
    drawn = draw_training_curves([tmp_path / "a", tmp_path / "b"], tmp_path / "plots")
    pixels = imread(drawn)
    assert pixels.shape[0] > 300
    assert pixels.shape[1] > 1000


def test_smoothed_curve_is_the_mean_of_its_neighbours() -> None:
    values = np.arange(60.0)
    values[10] = np.nan
    figure = training_curves([RunCurves("a", np.arange(60.0), {"loss": values})])
    raw, smooth = figure.axes[0].get_lines()[:2]
    np.testing.assert_array_equal(raw.get_ydata(), values)
    expected = np.nanmean(values[20 - 3 : 20 + 4])
    assert np.asarray(smooth.get_ydata())[20] == pytest.approx(expected)
    assert np.asarray(smooth.get_ydata())[10] == pytest.approx(10.0)


def test_principal_components_find_the_plane_the_videos_lie_in() -> None:
    rng = np.random.default_rng(0)
    angles = rng.uniform(0, 2 * np.pi, 200)
    plane = np.stack([3 * np.cos(angles), np.sin(angles)], axis=1)
    features = (plane @ np.linalg.qr(rng.standard_normal((6, 2)))[0].T).astype(np.float32)
    components, tsne = project(features)
    shares = [
        int(label.split("(")[1].split("%")[0]) for label in (components.x_label, components.y_label)
    ]
    assert sum(shares) in (99, 100, 101)
    assert tsne.points.shape == (200, 2)
    again = project(features)
    assert np.array_equal(components.points, again[0].points)
    assert np.array_equal(tsne.points, again[1].points)


def test_tsne_keeps_apart_what_is_apart() -> None:
    rng = np.random.default_rng(0)
    centres = np.repeat(np.eye(3, 16), 20, axis=0)
    features = (centres + 0.02 * rng.standard_normal((60, 16))).astype(np.float32)
    points = project(features)[1].points.reshape(3, 20, 2)
    spread = np.linalg.norm(points - points.mean(axis=1, keepdims=True), axis=2).max()
    gaps = np.linalg.norm(points.mean(axis=1)[:, None] - points.mean(axis=1)[None], axis=2)
    assert gaps[gaps > 0].min() > spread


def test_few_videos_get_no_tsne_and_two_no_map() -> None:
    features = feature_set(6)
    assert len(project(features.features)) == 1
    with pytest.raises(InputError, match="a map of 2 videos shows nothing"):
        project(features.features[:2])


def test_identical_features_are_drawn_as_one_point(tmp_path: Path) -> None:
    features = replace(feature_set(12), features=np.ones((12, 5), np.float32))
    drawn = feature_map(features)
    (components,) = drawn.projections
    assert np.abs(components.points).max() == 0
    save_figure(draw_map(drawn, title="x"), tmp_path / "x.png")


def test_map_names_classes_and_splits(tmp_path: Path) -> None:
    features = replace(feature_set(30), settings={"backbone": "tiny"})
    figure = draw_map(feature_map(features), title="run: 30 videos")
    entries = [text.get_text() for text in figure.legends[0].get_texts()]
    assert entries == ["run", "wave", "split train", "split ucf101-1/test"]
    drawn = sum(len(c.get_offsets()) for c in figure.axes[0].collections)  # type: ignore[arg-type]
    assert drawn == 30
    assert draw_feature_map(features, tmp_path, name="r").name == "r-map.png"


def test_many_classes_and_unlabelled_videos_fit(tmp_path: Path) -> None:
    names = tuple(f"a class with quite a long name, number {i}" for i in range(101))
    labels = np.arange(120, dtype=np.int32) % 102 - 1
    features = replace(feature_set(120), labels=labels, class_names=names)
    figure = draw_map(feature_map(features), title="x")
    entries = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "and 77 more classes" in entries
    save_figure(figure, tmp_path / "x.png")


@pytest.mark.parametrize(("num_videos", "num_segments"), [(1, 2), (40, 4), (3, 8)])
def test_segment_picture_counts_the_matches(
    tmp_path: Path, num_videos: int, num_segments: int
) -> None:
    similarity = np.full((num_videos, num_segments, num_segments), -0.5)
    similarity += 1.4 * np.eye(num_segments)
    similarity[0, 0] = 0.5  # one row whose match does not win, though it is its column's largest
    similarity[0, 0, 0] = 0.0
    figure = segment_similarity(similarity, title="x")
    wins = 1 - 1 / (num_videos * num_segments)
    assert f"mean of {num_videos} videos; the match wins in {wins:.0%} of rows" in panel_titles(
        figure
    )
    save_figure(figure, tmp_path / "x.png")
    assert imread(tmp_path / "x.png").shape[1] > 1000


def test_picture_that_cannot_be_written_is_a_failure(tmp_path: Path) -> None:
    write_log(tmp_path / "a", 3)
    with pytest.raises(
        FailureError, match="/dev/full/x.png: the picture could not be written: File exists"
    ):
        save_figure(Figure(), Path("/dev/full/x.png"))
    with pytest.raises(
        FailureError, match="plots/training.png: the picture could not be written: Not a directory"
    ):
        draw_training_curves([tmp_path / "a"], tmp_path / "a" / "log.jsonl" / "plots")
