"""How a map looks: colours of classes, marks of splits, a legend that stays short."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from fastdual.report.feature_map import feature_map
from fastdual.report.plots import draw_map, save_figure
from tests.evaluate.test_features import feature_set


def test_identical_features_are_drawn_as_one_point(tmp_path: Path) -> None:
    features = replace(feature_set(12), features=np.ones((12, 5), np.float32))
    drawn = feature_map(features)
    (components,) = drawn.projections
    assert np.abs(components.points).max() == 0
    save_figure(draw_map(drawn, title="x"), tmp_path / "x.png")


def test_map_names_classes_and_splits() -> None:
    features = replace(feature_set(30), settings={"backbone": "tiny"})
    figure = draw_map(feature_map(features), title="run: 30 videos")
    entries = [text.get_text() for text in figure.legends[0].get_texts()]
    assert entries == ["run", "wave", "split train", "split ucf101-1/test"]
    drawn = sum(len(c.get_offsets()) for c in figure.axes[0].collections)  # type: ignore[arg-type]
    assert drawn == 30


def test_many_classes_and_unlabelled_videos_fit(tmp_path: Path) -> None:
    names = tuple(f"a class with quite a long name, number {i}" for i in range(101))
    labels = np.arange(120, dtype=np.int32) % 102 - 1
    features = replace(feature_set(120), labels=labels, class_names=names)
    figure = draw_map(feature_map(features), title="x")
    entries = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "and 77 more classes" in entries
    save_figure(figure, tmp_path / "x.png")


def test_a_video_has_the_mark_of_the_first_split_that_holds_it() -> None:
    features = replace(
        feature_set(6), splits={"a": np.array([0, 1, 2]), "b": np.array([2, 3]), "c": np.array([5])}
    )
    assert feature_map(features, ["b", "a"]).marks.tolist() == [1, 1, 0, 0, 2, 2]
