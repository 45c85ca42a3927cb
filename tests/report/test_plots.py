"""Pictures: drawn from real logs, written whole, with the numbers they should show."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from fastdual.errors import FailureError
from fastdual.report.feature_map import FeatureMap
from fastdual.report.plots import draw_map, save_figure, segment_similarity, training_curves
from fastdual.report.projection import Projection
from fastdual.report.runs import RunCurves, read_curves
from tests.report.logs import write_log


def panel_titles(figure: Figure) -> list[str]:
    return [ax.get_title() for ax in figure.axes]


@pytest.mark.parametrize("readings", [1, 5, 300])
def test_curves_of_two_runs_share_their_panels(tmp_path: Path, readings: int) -> None:
    runs = [read_curves(write_log(tmp_path / name, readings), name) for name in "ab"]
    figure = training_curves(runs)
    assert panel_titles(figure) == ["loss, total", "clip contrast", "clip contrast, top-1"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    assert {ax.get_xlabel() for ax in figure.axes} == {"epoch"}


def test_smoothed_curve_is_the_mean_of_its_neighbours() -> None:
    values = np.arange(60.0)
    values[10] = np.nan
    figure = training_curves([RunCurves("a", np.arange(60.0), {"loss": values})])
    raw, smooth = figure.axes[0].get_lines()[:2]
    np.testing.assert_array_equal(raw.get_ydata(), values)
    expected = np.nanmean(values[20 - 3 : 20 + 4])
    assert np.asarray(smooth.get_ydata())[20] == pytest.approx(expected)
    assert np.asarray(smooth.get_ydata())[10] == pytest.approx(10.0)


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


def test_picture_that_cannot_be_written_is_a_failure() -> None:
    message = "/dev/full/x.png: the picture could not be written: File exists"
    with pytest.raises(FailureError, match=message):
        save_figure(Figure(), Path("/dev/full/x.png"))


def test_names_are_text_and_no_formulas(tmp_path: Path) -> None:
    r"""`$\frac{$` is no formula that matplotlib can read, `$x^2$` one that nobody wrote."""
    for name in (r"run$\frac{$", "$x^2$", r"a\$b", "_hidden", "{%}#&~^"):
        figure = training_curves([RunCurves(name, np.arange(3.0), {"loss": np.ones(3)})])
        save_figure(figure, tmp_path / "curves.png")
        (label,) = figure.legends[0].get_texts()
        assert (label.get_text(), label.get_parse_math()) == (name, False)
        figure = segment_similarity(np.ones((1, 2, 2)), title=name)
        save_figure(figure, tmp_path / "segments.png")
        panel = Projection(
            points=np.zeros((2, 2)), rows=np.arange(2), title=name, x_label=name, y_label=name,
            has_scale=True,
        )  # fmt: skip
        drawn = FeatureMap(
            projections=(panel,), colours=("#000000",) * 2, marks=np.zeros(2, dtype=np.int64),
            splits=(name, "x"), legend=((name, "#000000"),), more=0,
        )  # fmt: skip
        save_figure(draw_map(drawn, title=name), tmp_path / "map.png")
