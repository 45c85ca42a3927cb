"""Trivial baselines of a set of videos, and whether a network is better than they are.

Trivial features, which need no training: the mean picture of a video, and how much its pictures
change on average. Where one of them finds the class, so does anything that sees colours or motion.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from fastdual.evaluate.embed import EmbedOptions
from fastdual.evaluate.features import FeatureSet
from fastdual.evaluate.passes import pictures
from fastdual.loaders.index import VideoIndex

_PICTURES, _SIDE = 8, 16


def trivial_features(
    index: VideoIndex, features: FeatureSet, options: EmbedOptions
) -> dict[str, FeatureSet]:
    """Return the mean frame and the frame difference of the videos that have features.

    Args:
        index: Where the videos are.
        features: Of a network; those of the baselines have the same rows.
        options: How to decode.
    """
    numbers = {path: video for video, path in enumerate(index.paths)}
    videos = np.array([numbers[path] for path in features.paths], dtype=np.int64)
    order = np.argsort(videos)
    means: dict[int, np.ndarray[Any, Any]] = {}
    changes: dict[int, np.ndarray[Any, Any]] = {}
    how: dict[str, Any] = {"decode": options.decode, "num_workers": options.num_workers}
    for shown, frames in pictures(index, videos[order], count=_PICTURES, side=_SIDE, **how):
        change = frames.diff(dim=1).abs().mean(dim=1)
        for video, mean, moved in zip(shown, frames.mean(dim=1), change, strict=True):
            means[video], changes[video] = mean.flatten().numpy(), moved.flatten().numpy()
    if not all(video in means for video in videos.tolist()):
        return {}  # one of them cannot be decoded any more
    rows = {"mean frame": means, "frame difference": changes}
    return {
        name: replace(features, features=np.stack([of[video] for video in videos.tolist()]))
        for name, of in rows.items()
    }


def verdict(
    ours: Mapping[str, Any] | str, others: Mapping[str, Mapping[str, Any] | str]
) -> tuple[str, str]:
    """Return whether retrieval is better than that of others: `good`, `open` or `bad`; and why.

    Better means that the 95 % intervals of R@1 do not overlap.

    Args:
        ours: A report of `retrieval.retrieval_report`, or why there is none.
        others: The same of what has to be beaten, by name.
    """
    if isinstance(ours, str):
        return "open", f"No verdict, for nothing could be counted: {ours}"
    own = ours["metrics"]["R@1"]
    words, marks = [], set()
    for name, report in others.items():
        if isinstance(report, str):
            continue
        other = report["metrics"]["R@1"]
        mark = "open"
        if own["low"] > other["high"]:
            mark = "good"
        elif own["value"] <= other["value"]:
            mark = "bad"
        marks.add(mark)
        said = {"good": "better than", "open": "not clearly better than", "bad": "not better than"}
        words.append(f"{said[mark]} {name} ({100 * other['value']:.1f} %)")
    interval = f"{100 * own['low']:.1f} to {100 * own['high']:.1f}"
    kind = "bad" if "bad" in marks else "open" if "open" in marks else "good"
    measured = f"R@1 is {100 * own['value']:.1f} % ({interval}), chance is"
    return kind, f"{measured} {100 * ours['chance']:.1f} %: {', '.join(words)}."
