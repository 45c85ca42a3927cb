"""Folds of whole groups, shares of the labels, packs that are made once."""

from pathlib import Path

import numpy as np
import pytest

from bench.parts.method.data import check_overlaps, fold_of
from fastdual.errors import InputError
from tests.bench.parts.method.small import small_set


def test_folds_test_whole_groups_and_every_group_once(tmp_path: Path) -> None:
    data = small_set(tmp_path)
    index = data.open(tmp_path / "packs")
    tested = []
    for fold in range(data.num_folds):
        split = fold_of(index, data, fold, search=False)
        groups = {name: {index.groups[v] for v in split.split(name)} for name in split.splits}
        assert not groups["test"] & groups["train"]
        assert groups["train-30"] | groups["train-10"] <= groups["train"]
        tested += split.split("test").tolist()
    assert sorted(tested) == list(range(len(index)))
    with pytest.raises(InputError):
        check_overlaps(fold_of(index, data, 0, search=False).__class__(**{
            **vars(index), "splits": {"train": np.arange(3), "test": np.arange(2, 5)},
        }))  # fmt: skip


def test_few_labels_are_of_every_class_and_lie_within_more(tmp_path: Path) -> None:
    data = small_set(tmp_path)
    split = fold_of(data.open(tmp_path / "packs"), data, 1, search=False)
    few, some, every = (set(split.split(n).tolist()) for n in ("train-10", "train-30", "train"))
    assert few <= some <= every
    assert {split.labels[v] for v in few} == set(range(8))
    assert (len(few), len(every)) == (8, 16)


def test_the_search_never_sees_the_test_groups_of_its_fold(tmp_path: Path) -> None:
    data = small_set(tmp_path)
    index = data.open(tmp_path / "packs")
    spared = set(fold_of(index, data, 0, search=False).split("test").tolist())
    search = fold_of(index, data, 0, search=True)
    seen = {*search.split("train").tolist(), *search.split("test").tolist()}
    assert not seen & spared and len(seen) == 16


def test_a_set_is_known_by_its_videos_and_packed_once(tmp_path: Path) -> None:
    data = small_set(tmp_path)
    first = data.open(tmp_path / "packs")
    (pack,) = (tmp_path / "packs").glob("*.h5")
    written = pack.stat().st_mtime_ns
    assert min(first.size[0]) <= 64
    assert data.open(tmp_path / "packs").fingerprint == first.fingerprint
    assert pack.stat().st_mtime_ns == written
    text = (tmp_path / "small.csv").read_text().replace("ring-hops", "hop", 1)
    (tmp_path / "small.csv").write_text(text)
    assert small_set(tmp_path).digest == data.digest  # written anew
