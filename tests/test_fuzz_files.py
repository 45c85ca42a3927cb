"""Files from elsewhere, spoilt in every way: read, or refused in one line; never a traceback.

300 cases of each kind; FASTDUAL_FUZZ=3000 tries more.
"""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastdual.errors import FailureError, InputError
from fastdual.evaluate.features import _FEATURES, FeatureSet, _fill
from fastdual.loaders.batch.quarantine import Quarantine
from fastdual.loaders.files import read_lines
from fastdual.loaders.index import load_index, summary
from fastdual.loaders.index.fields import write_fields
from fastdual.loaders.index.file import _INDEX
from fastdual.loaders.index.pack_file import _checked_settings
from fastdual.loaders.index.sources import list_videos
from fastdual.training.replay import _read_plan
from tests.evaluate.small import small_index
from tests.evaluate.synthetic import drawn_features

CASES = int(os.environ.get("FASTDUAL_FUZZ", "300"))
ODD = ["inf", "-inf", "nan", "1e400", "9" * 400, "-1", "0", "", "\0", "\x1b[2J", "../x", "/", "é"]
ODD += ["null", "[]", "{}", '"', "'", ",", "\t", ";", "\n", "\r", "\ufeff", "\u2028", "a" * 5000]


def spoil(content: bytes, draw: random.Random) -> bytes:
    """Change a few places of a file: bytes, pieces of text, its order and length."""
    for _ in range(draw.randint(1, 6)):
        place, end = sorted(draw.randint(0, len(content)) for _ in range(2))
        piece = draw.choice(ODD).encode()
        content = draw.choice(
            (
                content[:place] + piece + content[place:],
                content[:place] + piece + content[end:],
                content[:place] + bytes(draw.randrange(256) for _ in range(3)) + content[place:],
                content[:place] + content[end:],
                content[:end] + content[place:],
            )
        )
    return content


def try_all(act: Callable[[random.Random], Any]) -> None:
    """Do something with every case; only our own errors, of one line, may come out."""
    refused = 0
    for case in range(CASES):
        try:
            act(random.Random(case))
        except (InputError, FailureError) as error:
            refused += 1
            assert "\n" not in str(error), (case, str(error))
        except Exception as error:
            raise AssertionError(f"case {case}: {type(error).__name__}: {error}") from error
    assert refused > CASES // 20


LISTS = {
    "csv": b'path,label,group,split\na.mp4,run,g1,train\n"b, c.mp4",walk,g2,test\n',
    "plain": b"a.mp4 3\nrun/b c.mp4 12\n",
    "kinetics": b"label,youtube_id,time_start,time_end,split\nrun,abc,12,22,train\n",
    "utf-16": "path\tlabel\na.mp4\trun\n".encode("utf-16"),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists(name: str, tmp_path: Path) -> None:
    path = tmp_path / "list.csv"

    def act(draw: random.Random) -> None:
        path.write_bytes(spoil(LISTS[name], draw))
        list_videos(path)

    try_all(act)


def odd_value(draw: random.Random, value: Any) -> Any:
    """Return an array or a text of another kind, shape or content in the place of one."""
    array = np.atleast_1d(np.asarray(value) if not isinstance(value, str | bytes) else np.zeros(3))
    return draw.choice(
        (
            array.astype(draw.choice([">i4", "<f8", "<u1", "<i2", ">f4", "<f2", "<i8"])),
            array[..., :0],
            np.concatenate([array, array]),
            np.full_like(array, draw.choice([0, 1, 120])),
            np.zeros((2, 0, 3), np.int64),
            array[::-1].copy(),
            np.bytes_(b"text"),
            np.float64("nan"),
            np.zeros(()),
        )
    )


def spoil_tables(file: Any, draw: random.Random) -> None:
    """Replace some arrays and attributes of an open HDF5 file, whose checksum comes after."""
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if hasattr(item, "shape") else None)
    for _ in range(draw.randint(1, 3)):
        if draw.random() < 0.3:
            name = draw.choice(sorted(file.attrs))
            file.attrs[name] = odd_value(draw, 0) if draw.random() < 0.5 else draw.choice(ODD[:8])
            continue
        name = draw.choice(names)
        if name in file:
            value = file[name][()]
            del file[name]
            if draw.random() < 0.9:
                file[name] = odd_value(draw, value)


def test_indexes_with_a_right_checksum(tmp_path: Path) -> None:
    index, path = small_index(), tmp_path / "x.h5"

    def act(draw: random.Random) -> None:
        def fill(file: Any) -> None:
            file.attrs["root"] = np.void(os.fsencode(index.root))
            file.attrs["root_relative"] = np.void(draw.choice([b".", b"a\0b", b"../../.."]))
            write_fields(file, index)
            spoil_tables(file, draw)

        _INDEX.write(path, fill)
        opened = load_index(path)
        summary(opened)
        for video in range(len(opened)):
            opened.video(video), opened.source(video), opened.keyframes(video)

    try_all(act)


def test_features_with_a_right_checksum(tmp_path: Path) -> None:
    features, path = drawn_features(seed=0), tmp_path / "f.h5"

    def act(draw: random.Random) -> None:
        def fill(file: Any) -> None:
            _fill(file, features)
            spoil_tables(file, draw)

        _FEATURES.write(path, fill)
        read = FeatureSet.load(path)
        for name in read.splits:
            read.part(name)

    try_all(act)


def test_bytes_of_indexes_and_plans(tmp_path: Path) -> None:
    plan = tmp_path / "plan-step-00000003.npz"
    arrays = {"videos": np.arange(3), "view_clip": np.zeros(4, np.int64), "frames": np.ones((3, 2))}
    np.savez(plan, allow_pickle=False, **arrays)
    whole = plan.read_bytes()

    def act(draw: random.Random) -> None:
        plan.write_bytes(spoil(whole, draw))
        _read_plan(plan)

    try_all(act)


def test_settings_of_packs() -> None:
    known = {"transcoding": {"size": [128, 172], "codec": "h264", "gop": 8, "quality": 20}}
    known |= {"job": [1, 1], "shard_bytes": None}

    def act(draw: random.Random) -> None:
        text = spoil(json.dumps(known).encode(), draw).decode("utf-8", "replace")
        if draw.random() < 0.5:
            odd = draw.choice([[1], [1, "a"], "x", 3, {}, [[]], None, [1, 2, 3], True])
            choices = [known | {"transcoding": odd}, odd, {"transcoding": {"size": odd}}]
            text = json.dumps(draw.choice(choices))
        try:
            how = json.loads(_checked_settings(text))["transcoding"]
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise InputError("its settings are wrong") from error  # as `read_pack` does
        if how and how.get("size"):
            "{}x{}".format(*how["size"])

    try_all(act)


def test_lines_of_quarantine_lists(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    line = json.dumps({"video": 3, "path": "a.mp4", "reason": "is not a video"}).encode() + b"\n"
    refused = [0]

    def act(draw: random.Random) -> None:
        path.write_bytes(spoil(line * 3, draw) + b"[" * draw.choice([0, 3000]))
        list(read_lines(path))
        Quarantine(small_index(), 24, path)._written()
        refused[0] += 1
        raise InputError("read")  # every line is read or left out

    try_all(act)
    assert refused[0] == CASES
