"""The pictures of runs and of features lie in the folder under their names."""

from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.image import imread

from fastdual.errors import FailureError
from fastdual.report.draw import draw_feature_map, draw_training_curves
from tests.evaluate.test_features import feature_set
from tests.report.logs import write_log


def test_curves_of_several_runs_are_one_picture(tmp_path: Path) -> None:
    runs = [write_log(tmp_path / name, 5) for name in "ab"]
    drawn = draw_training_curves(runs, tmp_path / "plots")
    assert drawn == tmp_path / "plots" / "training.png"
    height, width, _ = imread(drawn).shape
    assert height > 300 and width > 1000


def test_map_is_named_by_its_features(tmp_path: Path) -> None:
    features = replace(feature_set(30), settings={"backbone": "tiny"})
    assert draw_feature_map(features, tmp_path, name="r") == tmp_path / "r-map.png"
    assert imread(tmp_path / "r-map.png").shape[1] > 1000


def test_folder_that_cannot_be_made_is_a_failure(tmp_path: Path) -> None:
    write_log(tmp_path / "a", 3)
    message = "plots/training.png: the picture could not be written: Not a directory"
    with pytest.raises(FailureError, match=message):
        draw_training_curves([tmp_path / "a"], tmp_path / "a" / "log.jsonl" / "plots")
