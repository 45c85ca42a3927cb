"""Pairs of splits to measure: features of training and test videos that may be compared.

In retrieval the training videos are the gallery, and the test videos the queries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdual.errors import InputError
from fastdual.evaluate.embed import EmbedOptions, Progress, embed
from fastdual.evaluate.features import FeatureSet, is_features_file, plain_left_out
from fastdual.evaluate.hold_out import ALL, Held, HoldOut, as_one_set, choose_splits
from fastdual.evaluate.hygiene import feature_overlaps, index_overlaps, settle_overlaps
from fastdual.loaders.index import VideoIndex
from fastdual.run.seen import seen
from fastdual.weights.load import Network

Names = tuple[str, str]
SPLIT_NAMES: Names = ("training videos", "test videos")
RETRIEVAL_NAMES: Names = ("gallery", "queries")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two splits to measure, by name and features.

    Attributes:
        train_name, test_name: What the splits are called.
        train, test: Their features.
        overlaps: What they share, where that was allowed.
        held: How the test videos were held out, if the data had no splits.
    """

    train_name: str
    test_name: str
    train: FeatureSet
    test: FeatureSet
    overlaps: Sequence[Mapping[str, Any]] = ()
    held: Held | None = None

    @property
    def is_one_set(self) -> bool:
        """Whether each video is looked up among the others: they have neither splits nor labels."""
        return self.train is self.test

    def entry(self) -> dict[str, Any]:
        """Return what a result says of the pair beside the numbers."""
        return {
            "train": self.train_name,
            "test": self.test_name,
            "num_train": len(self.train),
            "num_test": len(self.test),
            "left_out": {
                "train": plain_left_out(self.train.left_out),
                "test": plain_left_out(self.test.left_out),
            },
            "overlaps": [*self.overlaps],
            "pretrained_on": self.test.num_seen,
            **({} if self.held is None else {"held_out": self.held.to_dict()}),
        }


def pairs_of_files(
    files: Sequence[Path],
    splits: Sequence[tuple[str | None, str | None]],
    *,
    names: Names = SPLIT_NAMES,
    how: HoldOut = HoldOut(),  # noqa: B008, immutable
    allow_overlap: bool = False,
    overlaps_file: Path | None = None,
) -> list[Pair]:
    """Take pairs of splits out of files of features.

    Args:
        files: One file with all splits, or one of training and one of test videos.
        splits: Names of each pair of splits; None: all videos of its file, or the usual splits of
            a single file.
        how: Which videos of a single file without splits are held out as test videos.
        names: What the two sides are called in errors.
        allow_overlap: Measure although the splits of a pair overlap.
        overlaps_file: Write every overlap to this CSV file.

    Raises:
        InputError: A damaged file, a missing split, sides that do not fit each other, overlaps.
    """
    train_set, *others = map(FeatureSet.load, files)
    held = None
    whole = None if others or splits != [(None, None)] else as_one_set(train_set)
    if names == RETRIEVAL_NAMES and whole is not None:
        return [_pair(ALL, ALL, whole, whole)]
    if not others and len(splits) == 1:
        train_set, pair_names, held = choose_splits(train_set, *splits[0], how)
        splits = [pair_names]
    test_set = others[0] if others else train_set
    pairs = [
        _pair(
            train or files[0].name,
            test or files[-1].name,
            train_set.part(train),
            test_set.part(test),
        )
        for train, test in splits
    ]
    for pair in pairs:
        check_pair(pair.train, pair.test, names=names)
    found = [feature_overlaps(pair.train, pair.test) for pair in pairs]
    overlaps = settle_overlaps(found, allowed=allow_overlap, listing=overlaps_file)
    found_pairs = zip(pairs, overlaps, strict=True)
    return [replace(pair, overlaps=of, held=held) for pair, of in found_pairs]


def pairs_of_run(
    network: Network,
    index: VideoIndex,
    splits: Sequence[tuple[str, str]],
    *,
    options: EmbedOptions,
    names: Names = SPLIT_NAMES,
    allow_overlap: bool = False,
    overlaps_file: Path | None = None,
    progress: Progress | None = None,
) -> list[Pair]:
    """Embed pairs of splits of an index, each video once, after looking for overlaps.

    Args:
        network: Computes the features.
        index: The videos.
        splits: Names of each pair of splits; of videos that are one set, (ALL, ALL) alone.
        options: Clips and decoding.
        names: What the two sides are called in errors.
        allow_overlap: Measure although the splits of a pair overlap.
        overlaps_file: Write every overlap to this CSV file.
        progress: Told after each batch.

    Raises:
        InputError: A missing split, missing labels or classes, or overlaps.
        FailureError: Too many videos cannot be decoded, or a weight or statistic moved.
    """
    if splits == [(ALL, ALL)]:
        features = embed(network, index, options=options, progress=progress)
        return [_pair(ALL, ALL, features, features)]
    # Everything that can be refused is, before hours are spent on features.
    for pair in splits:
        check_labels(index, *pair, names=names)
    how = {"decode": options.decode, "num_workers": options.num_workers}
    found = [index_overlaps(index, *pair, **how) for pair in splits]  # type: ignore[arg-type]
    overlaps = settle_overlaps(found, allowed=allow_overlap, listing=overlaps_file)
    wanted = [*dict.fromkeys(name for pair in splits for name in pair)]
    features = embed(network, index, splits=wanted, options=options, progress=progress)
    pairs = [
        _pair(train, test, features.part(train), features.part(test)) for train, test in splits
    ]
    return [replace(pair, overlaps=of) for pair, of in zip(pairs, overlaps, strict=True)]


def num_seen(network: Network, index: VideoIndex, split: str) -> int:
    """Return how many videos of a split the network was pretrained on, as far as is known."""
    return int(seen(network.trained_on, index.sha256[index.split(split)]).sum())


def _pair(train_name: str, test_name: str, train: FeatureSet, test: FeatureSet) -> Pair:
    return Pair(train_name=train_name, test_name=test_name, train=train, test=test)


def features_files(path: Path, data: Path | None) -> list[Path] | None:
    """Return the files of features that were named, or None for a run and its videos.

    Raises:
        InputError: Neither makes sense.
    """
    if is_features_file(path):
        if data is not None and not is_features_file(data):
            raise InputError(
                f"{data}: not a features file, but {path} is one; give two features files, or a "
                "run and its videos"
            )
        return [path] if data is None else [path, data]
    if data is None:
        raise InputError(
            f"{path}: not a features file, so a run: name its videos too (an index or a folder)"
        )
    if is_features_file(data):
        raise InputError(f"{data}: a features file, but {path} is none; give the gallery first")
    return None


def check_pair(
    train: FeatureSet, test: FeatureSet, *, names: Names = SPLIT_NAMES
) -> NDArray[np.int32]:
    """Make sure that test videos may be scored against training videos.

    Args:
        train: N training videos.
        test: Q test videos.
        names: What the two are called in errors.

    Returns:
        [Q] labels of `test` as numbers of `train.class_names`.

    Raises:
        InputError: Other networks, missing labels, a class without a video in `train`, shared
            videos.
    """
    _check_same_network(train, test, names)
    _check_labelled(train.labels, names[0])
    _check_labelled(test.labels, names[1])
    _check_disjoint(train, test, names)
    numbers = {name: number for number, name in enumerate(train.class_names)}
    table = np.array([numbers.get(name, -1) for name in test.class_names], dtype=np.int32)
    labels: NDArray[np.int32] = table[test.labels]
    _check_classes_present(train.labels, labels, test.class_names, test.labels, names)
    return labels


def check_labels(index: VideoIndex, train: str, test: str, *, names: Names = SPLIT_NAMES) -> None:
    """Make sure, before anything is embedded, that two splits have labels that can be compared.

    Raises:
        InputError: No such split, missing labels, or a class without a training video.
    """
    sides = index.labels[index.split(train)], index.labels[index.split(test)]
    for labels, name in zip(sides, names, strict=True):
        _check_labelled(labels, name)
    _check_classes_present(*sides, index.class_names, sides[1], names)


def _check_same_network(train: FeatureSet, test: FeatureSet, names: Names) -> None:
    both = " and ".join(names)
    if train.weights_sha256 != test.weights_sha256:
        raise InputError(
            f"{both} come from two networks (checkpoint {train.weights_sha256[:12]} and "
            f"{test.weights_sha256[:12]}); embed both with one"
        )
    if train.settings != test.settings:
        keys = sorted(
            key
            for key in train.settings.keys() | test.settings.keys()
            if train.settings.get(key) != test.settings.get(key)
        )
        raise InputError(
            f"{both} were embedded with different settings ({', '.join(keys)}); embed both alike"
        )


def _check_labelled(labels: NDArray[np.int32], name: str) -> None:
    if not len(labels):
        raise InputError(f"the {name} are empty: no video in this split")
    unlabelled = int((labels < 0).sum())
    if unlabelled:
        raise InputError(
            f"{unlabelled} of the {len(labels)} videos of the {name} have no label; index them "
            "from class folders or a CSV with a label column"
        )


def _check_disjoint(train: FeatureSet, test: FeatureSet, names: Names) -> None:
    if train.data_fingerprint != test.data_fingerprint:
        return
    shared = set(train.paths) & set(test.paths)
    if shared:
        raise InputError(
            f"{len(shared)} videos are in the {names[0]} and among the {names[1]}, first "
            f"{min(shared)}; a video would find itself: choose splits that share none"
        )


def _check_classes_present(
    train: NDArray[np.int32],
    labels: NDArray[np.int32],
    class_names: Sequence[str],
    numbers: NDArray[np.int32],
    names: Names,
) -> None:
    """Refuse test videos of classes that no training video has.

    Args:
        train: Labels of the training videos.
        labels: Those of the test videos, in the numbers of the training videos.
        class_names: Of the test videos.
        numbers: Their labels as numbers of `class_names`.
        names: What the two sides are called.
    """
    absent = ~np.isin(labels, train)
    if absent.any():
        absent_names = sorted({class_names[i] for i in numbers[absent]})
        shown = ", ".join(absent_names[:5]) + (", ..." if len(absent_names) > 5 else "")
        raise InputError(
            f"{int(absent.sum())} {names[1]} can find nothing: no {names[0]} video of class "
            f"{shown}; choose splits that share their classes"
        )
