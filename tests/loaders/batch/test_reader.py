"""Frame i is the same picture for every decoder; PyAV gets the files that DALI would misread."""

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from fastdual.loaders.batch.kinds import kinds_of, why_not_files, why_not_kind
from fastdual.loaders.batch.reader import FrameReader, unique_frames
from fastdual.loaders.index import VideoIndex, build_index
from fastdual.loaders.plan import ClipPlan, ClipSpec, draw_plan
from fastdual.loaders.pool.memory import SharedMemory, SharedRows, Target
from fastdual.loaders.views.augment import MEAN, STD
from fastdual.loaders.views.graph import ClipGraph, encoded_inputs
from tests.loaders.clips import encode, read_number
from tests.loaders.processes import children

DIFFERENCE = 2.0  # of 255, mean absolute, after resizing
# Whole frames, borders and all; neighbours at the start, the end and in the middle.
SPEC = ClipSpec(
    mode="evaluate", frames_per_clip=4, num_segments=1, frame_stride=1, clips_per_video=5,
    resize_height=128, resize_width=128, crop_size=128,
)  # fmt: skip


def plan_for(index: VideoIndex, video: int) -> ClipPlan:
    numbers = np.array([video])
    lengths = index.num_frames[numbers]
    return draw_plan(SPEC, seed=0, epoch=0, videos=numbers, num_frames=lengths)


def read(reader: FrameReader, video: int, wanted: np.ndarray, width: int = 128) -> np.ndarray:
    """[F, 128, width, 3] of a video's wanted frames."""
    shape = (len(wanted), 128, width, 3)
    out = Target(SharedMemory(int(np.prod(shape))), shape, "|u1")
    failure = reader.wait(reader.submit(video, wanted, out))
    assert failure is None, failure
    return out.array


def read_by_pyav(reader: FrameReader, plan: ClipPlan) -> np.ndarray:
    """[K, T, 128, 128, 3] of the plan's frames."""
    (wanted,), order = unique_frames(plan.frames)
    return read(reader, int(plan.videos[0]), wanted)[order[0]].astype(np.float64)


def read_by_dali(index: VideoIndex, plan: ClipPlan, device: str = "cpu") -> np.ndarray:
    """The same pictures decoded inside the DALI graph."""
    wanted, order = unique_frames(plan.frames)
    inputs = encoded_inputs(
        SPEC,
        [np.fromfile(index.path(int(plan.videos[0])), np.uint8)],
        wanted,
        index.rotation[plan.videos].astype(np.int64),
        np.zeros(1, np.int64),
    )
    graph = ClipGraph(
        SPEC, source="encoded", device=torch.device(device), max_batch_size=1, num_threads=1
    )
    views = torch.stack(graph.run(plan, order, inputs).views, dim=1)[0].cpu().double()
    return (views * torch.tensor(STD) + torch.tensor(MEAN)).numpy()


def videos_for(decoder: str, index: VideoIndex) -> list[int]:
    """The videos that DALI is given."""
    by_kind = [why_not_kind(decoder, kind) for kind in kinds_of(index)]
    reasons = zip(by_kind, why_not_files(decoder, index), strict=True)
    return [video for video, reason in enumerate(reasons) if reason == (None, None)]


def assert_decoders_agree(index: VideoIndex, videos: list[int], device: str = "cpu") -> None:
    reader = FrameReader(index, SPEC, num_workers=1, timeout_seconds=60)
    try:
        for video in videos:
            plan = plan_for(index, video)
            ours = read_by_pyav(reader, plan)
            theirs = read_by_dali(index, plan, device)
            by_frame = np.abs(ours - theirs).mean(axis=(2, 3, 4))
            assert by_frame.max() < DIFFERENCE, (index.paths[video], by_frame.round(2).tolist())
    finally:
        reader.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of several codecs whose frames show their own numbers."""
    folder = tmp_path_factory.mktemp("videos")
    size = {"height": 96, "width": 128}
    encode(folder / "h264.mp4", 60, gop=12, b_frames=2, **size)
    encode(folder / "mpeg4.avi", 60, codec="mpeg4", gop=12, **size)
    encode(folder / "mjpeg.avi", 30, codec="mjpeg", pixels="yuvj420p", **size)
    encode(folder / "vp8.webm", 60, codec="libvpx", gop=12, **size)
    for name, turn in (
        ("vp9.mp4", 0),
        ("vp9-90.mp4", 90),
        ("vp9-180.mp4", 180),
        ("vp9-270.mp4", 270),
    ):
        encode(folder / name, 60, codec="libvpx-vp9", gop=12, rotation=turn, **size)
    encode(folder / "vp9-odd.webm", 60, codec="libvpx-vp9", gop=12, height=97, width=136)
    return folder


@pytest.fixture(scope="module")
def index(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> VideoIndex:
    return build_index(folder, tmp_path_factory.mktemp("index") / "x.h5", num_workers=1)


def test_pyav_shows_the_numbered_frames_upright(index: VideoIndex):
    reader = FrameReader(index, SPEC, num_workers=1, timeout_seconds=60)
    for video in range(len(index)):
        frames = np.array([0, 1, 7, 11, 12, 13, 26, 29])
        pictures = read(reader, video, frames)
        if index.rotation[video] == 0:
            assert [read_number(p) for p in pictures] == frames.tolist(), index.paths[video]
    reader.close()


def test_rotated_files_come_out_upright(index: VideoIndex):
    """A quarter turn of the upright file's picture, whichever decoder is used."""
    straight = index.paths.index("vp9.mp4")
    full = ClipSpec(mode="evaluate", resize_height=128, resize_width=128)
    square = FrameReader(index, full, num_workers=1, timeout_seconds=60)
    pictures = {}
    for name in ("vp9.mp4", "vp9-90.mp4", "vp9-180.mp4", "vp9-270.mp4"):
        pictures[name] = read(square, index.paths.index(name), np.array([37]))[0].astype(int)
    turns = {name: int(index.rotation[index.paths.index(name)]) // 90 for name in pictures}
    assert sorted(turns.values()) == [0, 1, 2, 3] and index.rotation[straight] == 0
    for name, turn in turns.items():
        clockwise = np.rot90(pictures["vp9.mp4"], -turn)
        assert np.abs(pictures[name] - clockwise).mean() < 3, name
    square.close()


def test_dali_and_pyav_agree_on_every_codec_and_size(index: VideoIndex):
    videos = videos_for("dali-cpu", index)
    assert {index.codecs[v] for v in videos} == {"vp8", "vp9", "mjpeg"}
    upright = [v for v in videos if index.rotation[v] % 180 == 0]
    assert {int(index.rotation[v]) for v in upright} == {0, 180}
    assert_decoders_agree(index, upright)


def test_dali_and_pyav_agree_on_quarter_turns(index: VideoIndex):
    lying = [v for v in range(len(index)) if index.rotation[v] % 180]
    assert len(lying) == 2
    assert_decoders_agree(index, lying)


def test_dali_and_pyav_agree_on_the_zoo(shared_data: Path, tmp_path: Path):
    for path in sorted((shared_data / "zoo").rglob("*")):
        if path.suffix in (".webm", ".mkv", ".avi", ".mov") or "vp9" in path.name:
            target = tmp_path / "zoo" / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    index = build_index(tmp_path / "zoo", tmp_path / "zoo.h5")
    videos = videos_for("dali-cpu", index)
    assert len(videos) == 12  # two state BT.709
    assert_decoders_agree(index, videos)


def test_each_wanted_frame_is_decoded_once():
    plan = draw_plan(
        ClipSpec(frames_per_clip=4, frame_stride=2),
        seed=1,
        epoch=0,
        videos=np.array([0, 1]),
        num_frames=np.array([6, 1]),
    )
    wanted, order = unique_frames(plan.frames)
    for row in range(2):
        assert (np.diff(wanted[row]) > 0).all()
        assert np.array_equal(wanted[row][order[row]], plan.frames[row])
    assert wanted[1].tolist() == [0]


def test_views_are_made_where_they_are_wanted(index: VideoIndex) -> None:
    """Rows of two batches, each at its place, also after a worker was killed."""
    spec = ClipSpec(frames_per_clip=4, resize_height=40, resize_width=57, crop_size=32)
    videos, others = np.arange(6), children()
    lengths = index.num_frames[videos]
    plan = draw_plan(spec, seed=1, epoch=0, videos=videos, num_frames=lengths)
    wanted, order = unique_frames(plan.frames)
    shape = (3, spec.num_views, *spec.clip_shape, 3)
    batches = []
    for _ in range(3):
        memory = SharedMemory(4 * int(np.prod(shape)))
        batches.append(SharedRows(memory, memory.array(shape, "<f4")))
    reader = FrameReader(index, spec, num_workers=1, timeout_seconds=60)
    for row in range(6):
        arguments = plan[row : row + 1], wanted[row], order[row : row + 1]
        out, again = batches[row % 2].row(row // 2), batches[2].row(0)
        for target in (out, again):
            assert reader.wait(reader.submit_views(*arguments, target)) is None
        assert out.array.any() and np.array_equal(out.array, again.array)
        if row == 2:
            (pid,) = children() - others
            os.kill(pid, signal.SIGKILL)
    reader.close()
    assert len({batch.values[row].tobytes() for batch in batches[:2] for row in range(3)}) == 6


@pytest.mark.gpu
@pytest.mark.needs("av", "nvidia.dali")
def test_nvdec_and_pyav_agree(index: VideoIndex):
    videos = videos_for("nvdec", index)
    assert {index.codecs[v] for v in videos} >= {"h264", "mpeg4"}
    assert_decoders_agree(index, videos, "cuda:0")


@pytest.mark.gpu
@pytest.mark.needs("av", "nvidia.dali")
def test_nvdec_and_pyav_agree_on_the_zoo(shared_data: Path, tmp_path: Path):
    index = build_index(shared_data / "zoo", tmp_path / "zoo.h5")
    videos = videos_for("nvdec", index)
    assert_decoders_agree(index, videos, "cuda:0")
