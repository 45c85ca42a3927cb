"""The nearest videos: of each query in a gallery, or of each video among the others."""

from dataclasses import replace

import numpy as np

from fastdual.evaluate.hold_out import ALL, as_one_set
from fastdual.evaluate.nearest import drawn, look_up, nearest_rows, nearest_text
from tests.evaluate.synthetic import drawn_features


def test_a_video_finds_the_others_and_never_itself_as_a_plain_loop_does() -> None:
    features = drawn_features(seed=1)
    rows = features.features.astype(np.float64)
    rows -= rows.mean(axis=0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    lookups = look_up(features, ("all", "all"), 3)
    assert [lookup.query for lookup in lookups] == list(range(len(features)))
    for lookup in lookups:
        others = [row for row in range(len(features)) if row != lookup.query]
        cosines = {row: rows[lookup.query] @ rows[row] for row in others}
        assert list(lookup.found) == sorted(others, key=lambda row: -cosines[row])[:3]
        np.testing.assert_allclose(lookup.cosines, [cosines[row] for row in lookup.found])


def test_queries_are_centred_by_their_whole_split_whichever_are_shown() -> None:
    splits = {"train": np.arange(24), "test": np.arange(24, 48)}
    features = replace(drawn_features(seed=2, offset=3.0), splits=splits)
    every = look_up(features, ("train", "test"), 5)
    some = look_up(features, ("train", "test"), 5, np.array([3, 20]))
    for ours, theirs in zip(some, (every[3], every[20]), strict=True):
        assert ours.found == theirs.found
        np.testing.assert_allclose(ours.cosines, theirs.cosines, rtol=1e-12)  # a sum's order
    assert {row for lookup in every for row in lookup.found} <= set(range(24))
    assert look_up(features, ("train", "test"), 99)[0].found[-1] < 24


def test_one_set_is_what_has_neither_splits_nor_classes() -> None:
    features = drawn_features(seed=0)
    bare = replace(features, splits={}, labels=np.full_like(features.labels, -1))
    assert as_one_set(features) is None and as_one_set(replace(features, splits={})) is None
    whole = as_one_set(bare)
    assert whole is not None and whole.split(ALL).tolist() == list(range(len(features)))
    assert as_one_set(whole) is None


def test_a_single_video_finds_nothing() -> None:
    one = drawn_features(seed=0, classes=1, each=1)
    assert look_up(one, ("all", "all"), 5)[0].found == ()
    assert as_one_set(replace(one, splits={}, labels=np.full_like(one.labels, -1))) is None


def test_rows_are_read_as_they_were_found() -> None:
    features = drawn_features(seed=0)
    (lookup,) = look_up(features, ("all", "all"), 2, drawn(len(features), 1))
    rows = nearest_rows(features, [lookup])
    assert [row["place"] for row in rows] == [1, 2]
    assert [row["path"] for row in rows] == [features.paths[row] for row in lookup.found]
    first, *others = nearest_text(rows).splitlines()
    assert first == features.paths[lookup.query] and len(others) == 2
