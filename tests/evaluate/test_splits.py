"""One meaning of --split: a split, or both halves of an official one."""

from fastdual.evaluate.splits import named_splits

KNOWN = {"train", "test", "ucf101-1/train", "ucf101-1/test", "odd/train"}


def test_a_name_is_a_split_or_stands_for_its_halves() -> None:
    assert named_splits(KNOWN, "test") == ["test"]
    assert named_splits(KNOWN, "ucf101-1/test") == ["ucf101-1/test"]
    assert named_splits(KNOWN, "ucf101-1") == ["ucf101-1/train", "ucf101-1/test"]
    assert named_splits(KNOWN, "ucf101-1", ("test",)) == ["ucf101-1/test"]
    assert named_splits(KNOWN, "odd") == ["odd/train"]
    assert named_splits(KNOWN, "val") == ["val"]
