"""Trivial baselines against pictures by hand, and the verdict on a network beside them."""

from typing import Any

import numpy as np
import pytest

from fastdual.evaluate.embed import EmbedOptions, embed
from fastdual.evaluate.passes import pictures
from fastdual.report.baselines import trivial_features, verdict
from fastdual.weights.load import load_network
from tests.evaluate.small import small_checkpoint, small_index


@pytest.mark.needs("av", "h5py")
def test_the_baselines_are_the_mean_picture_and_the_mean_change() -> None:
    index, options = small_index(), EmbedOptions(clips_per_video=1, num_workers=1)
    network = load_network(small_checkpoint(), heads=False)
    features = embed(network, index, splits=["test"], options=options)
    found = trivial_features(index, features, options)
    videos = index.split("test")
    how: dict[str, Any] = {"decode": "auto", "num_workers": 1}
    frames = {
        video: picture.double().numpy()
        for shown, batch in pictures(index, videos, count=8, side=16, **how)
        for video, picture in zip(shown, batch, strict=True)
    }
    for row, video in enumerate(videos.tolist()):
        mean = frames[video].mean(axis=0).ravel()
        change = np.abs(np.diff(frames[video], axis=0)).mean(axis=0).ravel()
        assert np.allclose(found["mean frame"].features[row], mean, atol=1e-5)
        assert np.allclose(found["frame difference"].features[row], change, atol=1e-5)
    assert found["mean frame"].paths == features.paths


def report(value: float, low: float, high: float) -> dict[str, Any]:
    return {"chance": 0.125, "metrics": {"R@1": {"value": value, "low": low, "high": high}}}


@pytest.mark.parametrize(
    ("other", "kind", "said"),
    [
        (report(0.3, 0.2, 0.4), "good", "better than random weights (30.0 %)"),
        (report(0.5, 0.4, 0.6), "open", "not clearly better than random weights (50.0 %)"),
        (report(0.6, 0.5, 0.7), "bad", "not better than random weights (60.0 %)"),
        (report(0.7, 0.6, 0.8), "bad", "not better than random weights (70.0 %)"),
    ],
)
def test_better_means_that_the_intervals_lie_apart(
    other: dict[str, Any], kind: str, said: str
) -> None:
    ours = report(0.6, 0.5, 0.7)
    beaten = report(0.1, 0.0, 0.2)
    found = verdict(ours, {"random weights": other, "mean frame": beaten, "gone": "no labels"})
    assert found[0] == kind
    assert found[1] == (
        f"R@1 is 60.0 % (50.0 to 70.0), chance is 12.5 %: {said}, better than mean frame (10.0 %)."
    )


def test_without_labels_there_is_no_verdict() -> None:
    kind, said = verdict("no label", {"random weights": "no label"})
    assert kind == "open" and said == "No verdict, for nothing could be counted: no label"
