"""Accuracy, classes, confusions and intervals, against counts made by hand."""

import numpy as np
import pytest

from fastdual.evaluate.classify import Classification, interval


def by_hand() -> Classification:
    scores = np.array([[3, 1, 2], [3, 1, 2], [0, 0, 0], [1, 2, 3]], dtype=np.float64)
    return Classification(
        scores=scores,
        labels=np.array([0, 2, 1, 2], dtype=np.int32),
        groups=("", "", "", ""),
        class_names=("a", "b", "c"),
    )


def test_top_k_counts_ties_as_misses() -> None:
    assert by_hand().correct(1).tolist() == [True, False, False, True]
    assert by_hand().correct(2).tolist() == [True, True, False, True]


def test_report_counts_classes_and_confusions() -> None:
    report = by_hand().report()
    assert report["confusion"] == [[1, 0, 0], [1, 0, 0], [1, 0, 1]]
    assert {n: (c["accuracy"], c["videos"]) for n, c in report["per_class"].items()} == {
        "a": (1.0, 1),
        "b": (0.0, 1),
        "c": (0.5, 2),
    }
    assert report["metrics"]["top1"]["value"] == 0.5
    assert report["mean_class_accuracy"] == 0.5
    assert report["commonest_class"] == 0.5
    assert "top5" not in report["metrics"]  # of three classes it says nothing


def test_interval_has_the_width_of_a_binomial_and_is_repeatable() -> None:
    hits = np.arange(400) < 300
    found = interval(hits, [""] * 400)
    assert found == interval(hits, [""] * 400)
    half = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert found["low"] == pytest.approx(0.75 - half, abs=0.01)
    assert found["high"] == pytest.approx(0.75 + half, abs=0.01)
    assert found["resampled"] == "videos"


def test_groups_that_fail_together_widen_the_interval() -> None:
    hits = np.arange(400) < 300
    grouped = interval(hits, [f"film{i // 20}" for i in range(400)])  # 20 films, all right or wrong
    assert grouped["resampled"] == "groups"
    half = 1.96 * np.sqrt(0.75 * 0.25 / 20)
    assert grouped["low"] == pytest.approx(0.75 - half, abs=0.05)
    assert interval(hits, [f"film{i // 200}" for i in range(400)])["resampled"] == "videos"
