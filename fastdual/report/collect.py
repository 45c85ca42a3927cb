"""What a run's report shows, as numbers: everything that takes a network or videos to find out.

Shapes: N videos, K clips per video, F features, Q queries, S segments.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fastdual.errors import InputError
from fastdual.evaluate.embed import EmbedOptions, Progress, embed_clips, feature_set
from fastdual.evaluate.features import FeatureSet
from fastdual.evaluate.held_out import HeldOutEmbeddings, embed_held_out, trains_segments
from fastdual.evaluate.nearest import Lookup, drawn, look_up
from fastdual.evaluate.pairs import Pair
from fastdual.evaluate.pretext import HeldOutMetrics, measure
from fastdual.evaluate.probe import probe
from fastdual.evaluate.retrieval import retrieval_report
from fastdual.evaluate.variance import Variance, variance
from fastdual.loaders.index import VideoIndex
from fastdual.model.dual import DualModel
from fastdual.report.baselines import trivial_features
from fastdual.report.feature_map import FeatureMap, feature_map
from fastdual.report.thumbnails import film_strips
from fastdual.weights.load import Network

_SHOWN_QUERIES, _NEIGHBOURS = 12, 5
_MAX_MAP_STRIPS = 160


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What one network makes of the videos.

    Attributes:
        features: Of the videos of both splits, averaged over the clips.
        retrieval: As `retrieval.retrieval_report`, or why there is none.
        clip_variance: Of the features of single test clips; None where they are too few.
        segment_variance: Of the segment embeddings of test clips; None as `held_out`, or S = 1.
        pretext: How well the pretext task is solved on the test split; None as `held_out`.
        held_out: The embeddings that this was measured on; None without heads that were trained.
    """

    features: FeatureSet
    retrieval: dict[str, Any] | str
    clip_variance: Variance | None
    segment_variance: Variance | None
    pretext: HeldOutMetrics | None
    held_out: HeldOutEmbeddings | None


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that the page needs of the videos; row numbers are those of `trained.features`.

    Attributes:
        trained, untrained: The run's network, and the same one before it was trained.
        splits: Names of gallery and queries.
        lookups: Some queries, drawn at random rather than chosen.
        map: Where the videos lie, and how they are drawn.
        confusion: Report of a linear probe (`Classification.report`), or why there is none.
        strips: Data URI of a film strip, by row.
        overlaps: What the splits share, where that was allowed.
        baselines: Retrieval by the mean frame and the frame difference, as `Learned.retrieval`.
    """

    trained: Learned
    untrained: Learned
    splits: tuple[str, str]
    lookups: tuple[Lookup, ...]
    map: FeatureMap
    confusion: dict[str, Any] | str
    strips: dict[int, str]
    overlaps: list[dict[str, Any]]
    baselines: dict[str, dict[str, Any] | str]

    @property
    def is_one_set(self) -> bool:
        """Whether gallery and queries are the same videos."""
        return self.splits[0] == self.splits[1]

    @property
    def num_seen(self) -> int:
        """Queries that the network was pretrained on, as far as is known."""
        return self.trained.features.part(self.splits[1]).num_seen


def collect(
    trained: Network,
    untrained: Network,
    index: VideoIndex,
    *,
    splits: tuple[str, str],
    options: EmbedOptions,
    overlaps: list[dict[str, Any]],
    progress: Progress | None = None,
) -> Evidence:
    """Embed two splits under both networks, and find out everything that the page shows.

    Args:
        trained, untrained: The run's network, and the same one with random weights.
        index: The videos.
        splits: Names of the training (gallery) and the test split (queries); the same name twice:
            each video is looked up among the others.
        options: Clips and decoding.
        overlaps: What the splits share, if that was allowed.
        progress: Told after each batch.

    Raises:
        InputError: No such split, fewer than three videos, or features that are not finite.
        FailureError: Too many videos cannot be decoded.
    """
    total = 2 * len(np.union1d(*map(index.split, splits)))
    done = 0

    def count(videos: int) -> None:
        nonlocal done
        done += videos
        if progress is not None:
            progress(done, total, 0)

    learned = [_learn(network, index, splits, options, count) for network in (trained, untrained)]
    features = learned[0].features
    shown = drawn(len(features.split(splits[1])), _SHOWN_QUERIES)
    lookups = look_up(features, splits, _NEIGHBOURS, shown)
    return Evidence(
        trained=learned[0],
        untrained=learned[1],
        splits=splits,
        lookups=lookups,
        map=feature_map(features, splits[::-1]),
        confusion=_report_or_reason(_probe, features, splits),
        strips=_strips(index, features, lookups, options),
        overlaps=overlaps,
        baselines={
            name: _report_or_reason(retrieval_report, of, splits)
            for name, of in trivial_features(index, features, options).items()
        },
    )


def _learn(
    network: Network,
    index: VideoIndex,
    splits: tuple[str, str],
    options: EmbedOptions,
    count: Callable[[int], None],
) -> Learned:
    rows: dict[int, torch.Tensor] = {}
    for videos, clips in embed_clips(network, index, splits=splits, options=options):
        rows.update(zip(videos, clips, strict=True))
        count(len(videos))
    means = {video: clips.mean(dim=0) for video, clips in rows.items()}
    features = feature_set(network, index, options.spec(network.config), means)
    test = [rows[video] for video in index.split(splits[1]).tolist() if video in rows]
    held_out = None
    if isinstance(network.model, DualModel) and trains_segments(network.config):
        held_out = embed_held_out(network, index, split=splits[1], options=options)
    return Learned(
        features=features,
        retrieval=_report_or_reason(retrieval_report, features, splits),
        clip_variance=_variance(torch.stack(test)),
        segment_variance=None if held_out is None else _variance(held_out.segments[:, 0]),
        pretext=None if held_out is None else measure(held_out),
        held_out=held_out,
    )


def _report_or_reason(
    score: Callable[[Pair], dict[str, Any]], features: FeatureSet, splits: tuple[str, str]
) -> dict[str, Any] | str:
    train, test = (features.part(split) for split in splits)
    try:
        return score(Pair(train_name=splits[0], test_name=splits[1], train=train, test=test))
    except InputError as error:
        return str(error)


def _probe(pair: Pair) -> dict[str, Any]:
    return probe(pair.train, pair.test).classification.report()


def _variance(embeddings: torch.Tensor) -> Variance | None:
    return variance(embeddings) if min(embeddings.shape[:2]) >= 2 else None


def _strips(
    index: VideoIndex, features: FeatureSet, lookups: tuple[Lookup, ...], options: EmbedOptions
) -> dict[int, str]:
    """Return film strips of every video among the lookups, and of an even sample for the map."""
    wanted = {row for lookup in lookups for row in (lookup.query, *lookup.found)}
    sample = np.linspace(0, len(features) - 1, min(_MAX_MAP_STRIPS, len(features)))
    wanted |= set(sample.astype(int).tolist())
    rows = np.array(sorted(wanted), dtype=np.int64)
    numbers = {path: video for video, path in enumerate(index.paths)}
    video_of = {row: numbers[features.paths[row]] for row in rows.tolist()}
    strips = film_strips(
        index, [*video_of.values()], decode=options.decode, num_workers=options.num_workers
    )
    return {row: strips[video] for row, video in video_of.items() if video in strips}


def classes_of(features: FeatureSet, rows: Sequence[int]) -> list[str]:
    """Return the names of the classes of rows, "" without one."""
    labels = features.labels[np.asarray(rows, dtype=np.int64)].tolist()
    return ["" if label < 0 else features.class_names[label] for label in labels]
