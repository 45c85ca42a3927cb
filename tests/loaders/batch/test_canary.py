"""A decoder that shows other frames or colours is found out, on real pictures, and refused."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastdual.errors import FailureError
from fastdual.loaders import loader as loader_module
from fastdual.loaders.batch import canary, dali
from fastdual.loaders.batch.canary import find_fault
from fastdual.loaders.batch.decoder import choose_decoder
from fastdual.loaders.index import VideoIndex, build_index
from fastdual.loaders.loader import ClipLoader
from fastdual.loaders.plan import ClipSpec
from fastdual.loaders.views.graph import ClipGraph, encoded_inputs
from tests.loaders.clips import encode, picture
from tests.loaders.loading import SPEC, load
from tests.packages import av

pytestmark = pytest.mark.needs("av", "nvidia.dali")

LENIENT = pytest.mark.usefixtures("dali_where_it_can")
BIG = ClipSpec(mode="evaluate", frames_per_clip=4, clips_per_video=3, frame_stride=1)


@pytest.fixture(scope="module")
def vp9(tmp_path_factory: pytest.TempPathFactory) -> VideoIndex:
    """8 VP9 videos of one kind."""
    folder = tmp_path_factory.mktemp("vp9")
    for number in range(8):
        encode(folder / f"{number}.webm", 12 + number, codec="libvpx-vp9", height=96, width=128)
    return build_index(folder, tmp_path_factory.mktemp("index") / "x.h5", num_workers=1)


def show_late(spec: ClipSpec, encoded: Any, wanted: Any, *rest: Any) -> dict[str, Any]:
    """DALI decodes the frame after each that is wanted: its numbering is off by one."""
    return encoded_inputs(spec, encoded, [numbers + 1 for numbers in wanted], *rest)


def shift_chroma(picture: Tensor, rows: int = 4) -> Tensor:
    ycc = picture.numpy().astype(float) @ canary._TO_YCC.T
    ycc[:, :-rows, :, 1:] = ycc[:, rows:, :, 1:].copy()
    rgb = ycc @ np.linalg.inv(canary._TO_YCC).T
    return torch.from_numpy(rgb.round().clip(0, 255).astype(np.uint8))


def with_pictures(change: Callable[[Tensor], Tensor]) -> Any:
    run = ClipGraph.run

    def changed(self: ClipGraph, *arguments: Any) -> Any:
        made = run(self, *arguments)
        return made if made.pictures is None else made._replace(pictures=change(made.pictures))

    return changed


def assert_refused(
    index: VideoIndex, tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """The kind is given up at its first row, what was decoded of it is decoded again by PyAV."""
    lines = tmp_path / "run" / "quarantine.jsonl"
    options: Any = {"batch_size": 4, "num_workers": 1, "quarantine_path": lines}
    with ClipLoader(index, SPEC, seed=3, **options) as loader:
        batches = list(loader)
    assert loader.decoded_by.decoders == {"pyav": 8}
    (line,) = [r.getMessage() for r in caplog.records if "pictures are wrong" in r.getMessage()]
    assert "PyAV decodes vp9 Profile 0 yuv420p 128x96 from here on" in line and what in line
    folder = tmp_path / "run" / "decoder-check"
    assert str(folder) in line
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"vp9-Profile-0-yuv420p-128x96-{who}.png" for who in ("dali", "pyav")]
    for name in names:
        with av.open(str(folder / name)) as image:
            (frame,) = image.decode(video=0)
            assert (frame.height, frame.width) == (SPEC.resize_height, SPEC.resize_width)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader_module, "choose_decoder", choose_decoder)
        pyav = load(index, 2, decode="pyav")
    for ours, theirs in zip(batches, pyav, strict=True):
        assert torch.equal(ours.clips, theirs.clips)


@LENIENT
def test_one_frame_late(vp9: VideoIndex, tmp_path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(dali, "encoded_inputs", show_late)
    with_room = replace(vp9, num_frames=vp9.num_frames - 1, num_packets=vp9.num_packets - 1)
    assert_refused(with_room, tmp_path, caplog, "is shown as the frame after it")


@LENIENT
def test_chroma_from_four_rows_below(vp9: VideoIndex, tmp_path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(ClipGraph, "run", with_pictures(shift_chroma))
    assert_refused(vp9, tmp_path, caplog, "has another colour")


@LENIENT
def test_bt709_shown_as_bt601(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A real file and a real decoder; the index does not say what the file states."""
    folder, options = tmp_path / "videos", {"colorspace": "bt709"}
    for number in range(8):
        encode(folder / f"{number}.webm", 12, codec="libvpx-vp9", height=96, width=128,
               options=options)  # fmt: skip
    index = build_index(folder, tmp_path / "x.h5", num_workers=1)
    assert set(index.colour_spaces) == {1}
    unstated = replace(index, colour_spaces=np.full(8, 2, np.int16))
    assert_refused(unstated, tmp_path, caplog, "has another")


def test_strict_ends_the_run(vp9: VideoIndex, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(ClipGraph, "run", with_pictures(shift_chroma))
    what = r"decode dali-cpu was asked for and cannot be used: vp9 .*its pictures are wrong: frame"
    with pytest.raises(FailureError, match=what):
        load(vp9, 1, decode="dali-cpu", quarantine_path=tmp_path / "q.jsonl")


def test_a_right_decoder_is_watched_and_trusted(vp9: VideoIndex, monkeypatch, caplog) -> None:
    looks: list[Any] = []

    def look(*arguments: Any) -> str | None:
        looks.append(find_fault(*arguments))
        return looks[-1]

    monkeypatch.setattr(canary, "find_fault", look)
    batches = load(vp9, 8, decode="dali-cpu")
    assert all(batch.decoders == ("dali-cpu",) * 4 for batch in batches)
    assert len(looks) >= 6 and set(looks) == {None}  # rows 1, 2, 4, 8, 16, 32
    assert not caplog.records


@LENIENT
def test_no_real_video_is_suspected(shared_data: Path, tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(canary, "_EVERY", 1)
    for path in sorted((shared_data / "zoo").rglob("*")):
        if path.suffix in (".webm", ".mkv", ".avi") or "vp9" in path.name:
            target = tmp_path / "zoo" / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    index = build_index(tmp_path / "zoo", tmp_path / "zoo.h5")
    with ClipLoader(index, BIG, batch_size=1, shuffle=False) as loader:
        decoders = [decoder for batch in loader for decoder in batch.decoders]
    assert decoders.count("dali-cpu") >= 10
    assert not [r for r in caplog.records if "wrong" in r.getMessage()]


@pytest.mark.parametrize("scale", [0.25, 0.5, 1.0])
def test_what_is_within_a_right_decoders_reach_is_no_fault(scale: float) -> None:
    truth = np.stack([picture(number, height=128, width=168) for number in (1, 2, 3)])
    noise = np.random.default_rng(0).integers(-2, 3, truth[1].shape)
    near = (truth[1] + noise).clip(0, 255).astype(np.uint8)
    assert find_fault(near, truth, 1, scale) is None
    assert find_fault(truth[1], truth[[1, 1, 1]], 1, scale) is None  # a still
    assert find_fault(truth[0], truth, 1, scale) == "is shown as the frame before it"
    assert find_fault(truth[2], truth, 1, scale) == "is shown as the frame after it"
    dark = (truth[1] * 0.9).astype(np.uint8)
    assert "another brightness" in str(find_fault(dark, truth, 1, scale))
    tinted = truth[1].copy()
    tinted[..., 2] //= 2
    assert "has another" in str(find_fault(tinted, truth, 1, scale))
