"""Damage at random: a pack is refused, or its videos are, or what is read is what was packed.

`FASTDUAL_FUZZ_CASES=2000` runs as many cases in all; the usual number keeps the suite quick.
"""

import dataclasses
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from fastdual.errors import FailureError, InputError
from fastdual.loaders.decode.encoded import PackedBytes
from fastdual.loaders.index import VideoIndex, build_index, open_index
from fastdual.loaders.loader import ClipLoader
from fastdual.loaders.pack import PackOptions, pack
from fastdual.loaders.plan import ClipSpec
from tests.loaders.clips import encode
from tests.loaders.damage import damage

CASES = int(os.environ.get("FASTDUAL_FUZZ_CASES", "300"))
CHUNK = 100
SPOOLS = max(4, CASES // 100)
LOADERS = max(2, CASES // 200)
ONE_WORKER = PackOptions(num_workers=1)
SPEC = ClipSpec(frames_per_clip=2, frame_stride=2, resize_height=16, resize_width=16, crop_size=16)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> VideoIndex:
    root = tmp_path_factory.mktemp("made") / "videos"
    for number in range(4):
        encode(root / f"{number}.mp4", 6 + number, height=16, width=16)
    return build_index(root, root.parent / "x.h5", num_workers=1)


@pytest.fixture(scope="module")
def whole(index: VideoIndex, tmp_path_factory: pytest.TempPathFactory) -> VideoIndex:
    return pack(index, tmp_path_factory.mktemp("whole") / "p.h5", ONE_WORKER)


@pytest.fixture(scope="module")
def sharded(index: VideoIndex, tmp_path_factory: pytest.TempPathFactory) -> VideoIndex:
    options = dataclasses.replace(ONE_WORKER, shard_bytes=3000)
    return pack(index, tmp_path_factory.mktemp("sharded") / "p.h5", options)


def contents_of(index: VideoIndex) -> dict[str, bytes]:
    return {path: (index.path(v)).read_bytes() for v, path in enumerate(index.paths)}


def judge(file: Path, truth: dict[str, bytes]) -> str:
    """Open a pack and read all of it; anything but the truth or a clear error fails the test."""
    try:
        opened = open_index(file)
    except InputError as error:
        assert "\n" not in str(error) and file.parent.name in str(error)
        return "refused at opening"
    refused = 0
    for video, path in enumerate(opened.paths):
        source = opened.source(video)
        assert isinstance(source, PackedBytes)
        try:
            assert source.read() == truth[path], "other bytes were taken for the right ones"
        except FailureError as error:
            assert "pack" in str(error)
            refused += 1
    return "a video refused" if refused else "nothing wrong"


@pytest.mark.parametrize("chunk", range(0, CASES, CHUNK))
@pytest.mark.parametrize("kind", ["whole", "sharded"])
def test_no_damage_is_taken_for_the_truth(
    chunk: int, kind: str, index: VideoIndex, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    packed: VideoIndex = request.getfixturevalue(kind)
    folder = Path(shutil.copytree(packed.root.parent, tmp_path / "pack"))
    files = {file: file.read_bytes() for file in sorted(folder.glob("*.h5"))}
    truth, outcomes = contents_of(index), Counter[str]()
    for case in range(chunk, min(chunk + CHUNK, CASES)):
        rng = np.random.default_rng((case, len(files)))
        file = list(files)[int(rng.integers(len(files)))]
        damaged = damage(files[file], rng)
        file.write_bytes(damaged)
        outcome = judge(folder / "p.h5", truth)
        if kind == "whole" or damaged == files[file]:
            # The tables of a shard are not used, nor read, where a manifest has them all.
            assert (outcome == "nothing wrong") == (damaged == files[file]), f"case {case}"
        outcomes[outcome] += 1
        file.write_bytes(files[file])
    print(kind, dict(outcomes))
    assert outcomes["refused at opening"] and outcomes["a video refused"]


@pytest.mark.parametrize("case", range(SPOOLS))
def test_a_damaged_spool_or_journal_leads_to_the_same_pack(
    case: int, index: VideoIndex, whole: VideoIndex, tmp_path: Path
) -> None:
    def stop(done: int, total: int, bad: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(index, tmp_path / "p.h5", ONE_WORKER, progress=stop)
    rng = np.random.default_rng(case)
    file = tmp_path / ("p.h5.partial", "p.h5.partial.jsonl")[case % 2]
    file.write_bytes(damage(file.read_bytes(), rng))
    packed = pack(index, tmp_path / "p.h5", ONE_WORKER)
    assert packed.fingerprint == whole.fingerprint
    assert judge(tmp_path / "p.h5", contents_of(index)) == "nothing wrong"


@pytest.mark.parametrize("case", range(LOADERS))
def test_the_loader_shows_the_right_pictures_or_none(
    case: int, index: VideoIndex, whole: VideoIndex, tmp_path: Path
) -> None:
    assert whole.packed is not None
    (shard,) = whole.packed.shards
    contents = bytearray(whole.root.read_bytes())
    rng = np.random.default_rng(case)
    contents[shard.start + int(rng.integers(shard.length))] ^= 1 << int(rng.integers(8))
    (tmp_path / "p.h5").write_bytes(contents)
    arguments = {"batch_size": 1, "num_workers": 1, "shuffle": False}
    with ClipLoader(open_index(tmp_path / "p.h5"), SPEC, **arguments) as loader:  # type: ignore[arg-type]
        shown = list(loader)
    with ClipLoader(index, SPEC, **arguments) as loader:  # type: ignore[arg-type]
        right = {int(batch.video_ids[0]): batch for batch in loader}
    numbers = [int(batch.video_ids[0]) for batch in shown]
    assert len(shown) == 4 and len(set(numbers)) == 3  # the damaged one has a substitute
    for number, batch in zip(numbers, shown, strict=True):
        assert torch.equal(batch.clips, right[number].clips)
