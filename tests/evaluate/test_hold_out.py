"""Test videos that are held out of data without splits: whole groups, every class, repeatable."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fastdual.errors import InputError
from fastdual.evaluate.hold_out import Held, HoldOut, choose_splits, hold_out
from fastdual.loaders.index import VideoIndex, build_index
from tests.evaluate.small import small_index

HOW = HoldOut()


def of(
    labels: list[int], groups: list[str] | None = None, same: tuple[tuple[int, int], ...] = ()
) -> VideoIndex:
    """An index of as many videos; `same` are pairs with the same bytes."""
    small = small_index()
    index = replace(small.take(np.arange(len(labels))), splits={})
    sha256 = index.sha256.copy()
    for a, b in same:
        sha256[b] = sha256[a]
    values = np.array(labels, np.int32)
    named = tuple(groups or [""] * len(labels))
    return replace(index, labels=values, groups=named, sha256=sha256)


def parts(index: VideoIndex, how: HoldOut = HOW) -> tuple[set[int], set[int], Held]:
    divided, held = hold_out(index, None, how)
    train, test = (set(divided.splits[name].tolist()) for name in ("train", "test"))
    assert not train & test and len(train) + len(test) == len(index)
    assert (held.num_train, held.num_test) == (len(train), len(test))
    return train, test, held


def test_each_class_has_its_share_in_the_test_split() -> None:
    index = of([0] * 10 + [1] * 5 + [2] * 2 + [3])
    _, test, held = parts(index)
    assert np.bincount(index.labels[sorted(test)], minlength=4).tolist() == [2, 1, 1, 0]
    assert held.by == "video"
    _, half, _ = parts(index, HoldOut(share=0.5))
    assert np.bincount(index.labels[sorted(half)], minlength=4).tolist() == [5, 2, 1, 0]


def test_the_seed_decides_and_new_videos_change_little() -> None:
    index = of([0] * 20)
    _, first, _ = parts(index)
    assert parts(index)[1] == first
    assert parts(index, HoldOut(seed=1))[1] != first
    _, fewer, _ = parts(index.take(np.arange(19)))
    assert len(first - fewer) <= 1


def test_groups_stay_together() -> None:
    groups = [f"signer{n % 4}" for n in range(24)]
    index = of([n % 3 for n in range(24)], groups)
    train, test, held = parts(index)
    assert not {groups[v] for v in train} & {groups[v] for v in test}
    assert held.by == "group" and len({groups[v] for v in test}) == 1


def test_copies_of_a_video_stay_together() -> None:
    index = of([0] * 8, same=((0, 4), (4, 7), (1, 2)))
    for seed in range(8):
        _, test, _ = parts(index, HoldOut(share=0.4, seed=seed))
        assert len(test & {0, 4, 7}) in (0, 3) and len(test & {1, 2}) in (0, 2)


def test_no_class_loses_its_last_training_video() -> None:
    # The only group with class 1 may not go, though class 0 has too few.
    index = of([0, 1, 0, 0], ["a", "a", "b", "b"])
    for seed in range(6):
        train, test, _ = parts(index, HoldOut(share=0.5, seed=seed))
        assert test == {2, 3} and train == {0, 1}


@pytest.mark.parametrize(
    ("labels", "groups"), [([0], None), ([0, 1, 2], None), ([0, 0, 0], ["a"] * 3)]
)
def test_what_cannot_be_divided_is_said(labels: list[int], groups: list[str] | None) -> None:
    with pytest.raises(InputError, match=f"{len(labels)} videos cannot be divided into training"):
        hold_out(of(labels, groups), None, HOW)


def test_unlabelled_videos_can_be_held_out() -> None:
    assert len(parts(of([-1] * 10))[1]) == 2


def test_splits_that_are_there_are_taken() -> None:
    rows = {"a": np.arange(6), "b": np.arange(6, 10)}
    for names in (("train", "test"), ("train", "val"), ("train", "validation")):
        index = replace(of([0] * 10), splits=dict(zip(names, rows.values(), strict=True)))
        chosen, found, held = choose_splits(index, None, None, HOW)
        assert (chosen, found, held) == (index, names, None)
    only = replace(of([0] * 10), splits={"train": rows["a"]})
    divided, found, held = choose_splits(only, None, None, HOW)
    assert held is not None and found == ("train", "test")
    assert np.concatenate([*divided.splits.values()]).max() < 6
    several = replace(of([0] * 10), splits={"ucf-1/train": rows["a"], "ucf-1/test": rows["b"]})
    with pytest.raises(InputError, match="several splits .*--split ucf-1"):
        choose_splits(several, None, None, HOW)
    assert choose_splits(several, "x", None, HOW)[1] == ("x", "test")


def test_the_list_is_one_that_can_be_indexed(tmp_path: Path) -> None:
    divided, held = hold_out(replace(small_index(), splits={}), None, HOW)
    held.save(tmp_path)
    rows = list(csv.DictReader(io.StringIO(held.table)))
    assert len(rows) == len(divided) and {row["split"] for row in rows} == {"train", "test"}
    again = build_index(held.file_in(tmp_path), tmp_path / "x.h5", root=divided.root, num_workers=2)
    assert again.fingerprint == divided.fingerprint
