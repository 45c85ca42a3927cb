"""Pairs of splits: what may not be compared is named, and each video is embedded once."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fastdual.errors import InputError
from fastdual.evaluate.embed import EmbedOptions
from fastdual.evaluate.pairs import RETRIEVAL_NAMES, check_pair, pairs_of_files, pairs_of_run
from fastdual.weights.load import load_network
from tests.evaluate.small import small_checkpoint, small_index
from tests.evaluate.synthetic import drawn_features
from tests.evaluate.test_retrieval import random_sides, side


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights_sha256": "ef" * 32}, "come from two networks"),
        ({"settings": {"frame_stride": 2}}, r"settings \(clips_per_video, frame_stride\)"),
        ({"labels": np.full(33, -1, np.int32)}, "33 of the 33 videos of the queries have no label"),
        ({"paths": tuple(f"train/{i}.mp4" for i in range(33))}, "33 videos are in the gallery and"),
        (
            {"class_names": tuple("abcdefgx")},
            "queries can find nothing: no gallery video of class x",
        ),
    ],
)
def test_what_cannot_be_compared_is_named(change: dict[str, object], message: str) -> None:
    gallery, queries = random_sides(60, 33)
    with pytest.raises(InputError, match=message):
        check_pair(gallery, replace(queries, **change), names=RETRIEVAL_NAMES)  # type: ignore[arg-type]


def test_class_missing_from_the_gallery_is_named() -> None:
    gallery, queries = random_sides(60, 33)
    keep = gallery.labels != 2
    with pytest.raises(InputError, match="no gallery video of class c; choose splits"):
        check_pair(
            side(gallery.features[keep], gallery.labels[keep].tolist(), "train"),
            queries,
            names=RETRIEVAL_NAMES,
        )


def test_empty_side_is_named() -> None:
    gallery, _ = random_sides(60, 33)
    with pytest.raises(InputError, match="the queries are empty"):
        check_pair(gallery, side(np.zeros((0, 7), np.float32), [], "test"), names=RETRIEVAL_NAMES)


def test_progress_goes_through_both_splits_to_the_end() -> None:
    told: list[tuple[int, int, int]] = []
    pairs_of_run(
        load_network(small_checkpoint()),
        small_index(),
        [("train", "test")],
        options=EmbedOptions(clips_per_video=1, num_workers=1),
        progress=lambda *numbers: told.append(numbers),
    )
    assert told == [(8, 24, 0), (16, 24, 0), (24, 24, 0)]


def test_videos_of_several_pairs_are_embedded_once() -> None:
    index, told = small_index(), []
    splits = {"a": index.splits["train"], "b": index.splits["test"][:2]}
    index = replace(index, splits={**index.splits, **splits})
    pairs = pairs_of_run(
        load_network(small_checkpoint()),
        index,
        [("a", "b"), ("a", "test")],
        options=EmbedOptions(clips_per_video=1, num_workers=1),
        allow_overlap=True,
        progress=lambda *numbers: told.append(numbers),
    )
    assert told[-1] == (24, 24, 0)
    assert [(len(pair.train), len(pair.test)) for pair in pairs] == [(16, 2), (16, 8)]
    assert pairs[0].train.paths == tuple(index.paths[v] for v in splits["a"])
    assert np.array_equal(pairs[0].train.features, pairs[1].train.features)
    assert (pairs[1].train_name, pairs[1].test_name) == ("a", "test")


def test_one_file_or_two_give_the_same_pair(tmp_path: Path) -> None:
    train, test = drawn_features(seed=0), drawn_features(seed=1)
    train.save(tmp_path / "train.h5")
    test.save(tmp_path / "test.h5")
    (pair,) = pairs_of_files([tmp_path / "train.h5", tmp_path / "test.h5"], [(None, None)])
    assert (pair.train_name, pair.test_name) == ("train.h5", "test.h5")
    assert np.array_equal(pair.train.features, train.features)
    assert np.array_equal(pair.test.features, test.features)
    assert pair.entry()["num_test"] == 48
    with pytest.raises(InputError, match="no split 'val' among these features"):
        pairs_of_files([tmp_path / "train.h5"], [("all", "val")])
