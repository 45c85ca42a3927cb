"""Frame i is the same picture for every decoder; PyAV gets the files that DALI would misread."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fastdual.loaders.batch.decoder import colour_matrix, why_not_dali
from fastdual.loaders.batch.reader import Examined, FrameReader, unique_frames
from fastdual.loaders.index import VideoIndex, build_index
from fastdual.loaders.loader import ClipLoader
from fastdual.loaders.plan import ClipPlan, ClipSpec, draw_plan
from fastdual.loaders.pool.pool import TaskFailure
from fastdual.loaders.views.graph import MEAN, STD, ClipGraph, encoded_inputs, read_pinned
from tests.loaders.clips import encode, read_number, remux

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


def read_by_pyav(reader: FrameReader, plan: ClipPlan) -> np.ndarray:
    """[K, T, 128, 128, 3] of the plan's frames."""
    (wanted,), order = unique_frames(plan)
    ticket = reader.submit(int(plan.videos[0]), wanted)
    frames = reader.result(ticket)
    assert not isinstance(frames, TaskFailure), frames
    clips = frames[order[0]].astype(np.float64)
    reader.release(ticket)
    return clips


def read_by_dali(index: VideoIndex, plan: ClipPlan, space: int, device: str = "cpu") -> np.ndarray:
    """The same pictures decoded inside the DALI graph."""
    wanted, order = unique_frames(plan)
    matrix = colour_matrix(space)
    assert matrix is not None
    inputs = encoded_inputs(
        SPEC,
        [np.fromfile(index.path(int(plan.videos[0])), np.uint8)],
        wanted,
        index.rotation[plan.videos].astype(np.int64),
        matrix[None],
    )
    graph = ClipGraph(
        SPEC, source="encoded", device=torch.device(device), max_batch_size=1, num_threads=1
    )
    views = torch.stack(graph.run(plan, order, inputs), dim=1)[0].cpu().double()
    return (views * torch.tensor(STD) + torch.tensor(MEAN)).numpy()


def colour_space(reader: FrameReader, index: VideoIndex, video: int) -> int:
    answer = reader._pool.result(reader.submit_examination(video))
    assert isinstance(answer, Examined) and answer.misnumbered is None
    return answer.colour_space


def assert_decoders_agree(index: VideoIndex, videos: list[int], device: str = "cpu") -> None:
    reader = FrameReader(index, SPEC, num_workers=1, timeout_seconds=60)
    try:
        for video in videos:
            plan = plan_for(index, video)
            ours = read_by_pyav(reader, plan)
            theirs = read_by_dali(index, plan, colour_space(reader, index, video), device)
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
        ticket = reader.submit(video, frames)
        pictures = reader.result(ticket)
        assert pictures.shape == (8, 128, 128, 3), index.paths[video]
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
        ticket = square.submit(index.paths.index(name), np.array([37]))
        pictures[name] = np.array(square.result(ticket))[0].astype(int)
    turns = {name: int(index.rotation[index.paths.index(name)]) // 90 for name in pictures}
    assert sorted(turns.values()) == [0, 1, 2, 3] and index.rotation[straight] == 0
    for name, turn in turns.items():
        clockwise = np.rot90(pictures["vp9.mp4"], -turn)
        assert np.abs(pictures[name] - clockwise).mean() < 3, name
    square.close()


def test_dali_and_pyav_agree_on_every_codec_and_size(index: VideoIndex):
    videos = [v for v in range(len(index)) if why_not_dali("dali-cpu", index, v) is None]
    assert {index.codecs[v] for v in videos} == {"vp8", "vp9", "mjpeg"}
    upright = [v for v in videos if index.rotation[v] % 180 == 0]
    assert {int(index.rotation[v]) for v in upright} == {0, 180}
    assert_decoders_agree(index, upright)


def test_dali_and_pyav_agree_on_quarter_turns(index: VideoIndex):
    lying = [v for v in range(len(index)) if index.rotation[v] % 180]
    assert len(lying) == 2
    assert_decoders_agree(index, lying)


@pytest.mark.parametrize("space", [1, 9])
def test_a_stated_colour_matrix_is_kept_by_both_decoders(space, tmp_path: Path):
    options = {"colorspace": {1: "bt709", 9: "bt2020nc"}[space]}
    encode(tmp_path / "videos" / "x.webm", 20, codec="libvpx-vp9", options=options)
    index = build_index(tmp_path / "videos", tmp_path / "x.h5", num_workers=1)
    reader = FrameReader(index, SPEC, num_workers=1, timeout_seconds=60)
    assert colour_space(reader, index, 0) == space
    reader.close()
    assert_decoders_agree(index, [0])


def test_dali_and_pyav_agree_on_the_zoo(shared_data: Path, tmp_path: Path):
    for path in sorted((shared_data / "zoo").rglob("*")):
        if path.suffix in (".webm", ".mkv", ".avi", ".mov") or "vp9" in path.name:
            target = tmp_path / "zoo" / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    index = build_index(tmp_path / "zoo", tmp_path / "zoo.h5")
    videos = [v for v in range(len(index)) if why_not_dali("dali-cpu", index, v) is None]
    assert len(videos) == 14
    assert_decoders_agree(index, videos)


def test_files_whose_frames_dali_would_miscount_are_left_to_pyav(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    size = {"height": 96, "width": 128}
    source = encode(tmp_path / "source.webm", 20, codec="libvpx-vp9", **size)
    remux(source, tmp_path / "videos" / "good.mkv", delay=0)
    remux(source, tmp_path / "videos" / "early.mkv", delay=-2)
    index = build_index(tmp_path / "videos", tmp_path / "x.h5", num_workers=1)
    reader = FrameReader(index, SPEC, num_workers=1, timeout_seconds=60)
    early, good = (index.paths.index(name) for name in ("early.mkv", "good.mkv"))
    assert reader.examined(reader.submit_examination(early)) == (
        "DALI leaves out frames whose time is missing or negative"
    )
    assert np.array_equal(reader.examined(reader.submit_examination(good)), np.eye(3))
    reader.close()
    # The same video twice in a row, before the first answer: it is asked once and told once.
    with ClipLoader(index, SPEC, batch_size=1, decode="dali-cpu", num_workers=1) as loader:
        batches = [batch for _ in range(3) for batch in loader]
    assert len(batches) == 6
    told = [record.message for record in caplog.records if "PyAV decodes" in record.message]
    assert len(told) == 1 and "early.mkv: DALI leaves out frames" in told[0]
    fewer = replace(index, num_frames=index.num_frames - 1)
    reader = FrameReader(fewer, SPEC, num_workers=1, timeout_seconds=60)
    assert reader.examined(reader.submit_examination(good)) == "it has 20 packets for 19 frames"
    reader.close()


def test_each_wanted_frame_is_decoded_once():
    plan = draw_plan(
        ClipSpec(frames_per_clip=4, frame_stride=2),
        seed=1,
        epoch=0,
        videos=np.array([0, 1]),
        num_frames=np.array([6, 1]),
    )
    wanted, order = unique_frames(plan)
    for row in range(2):
        assert (np.diff(wanted[row]) > 0).all()
        assert np.array_equal(wanted[row][order[row]], plan.frames[row])
    assert wanted[1].tolist() == [0]


def test_bytes_are_read_whole_for_the_graph(index: VideoIndex) -> None:
    encoded = read_pinned(index.source(0), torch.device("cpu"))
    assert encoded.tobytes() == index.path(0).read_bytes()


@pytest.mark.gpu
def test_bytes_for_a_gpu_are_pinned(index: VideoIndex) -> None:
    encoded = read_pinned(index.source(0), torch.device("cuda", 0))
    assert encoded.tobytes() == index.path(0).read_bytes()
    assert torch.from_numpy(encoded).is_pinned()


@pytest.mark.gpu
def test_nvdec_and_pyav_agree(index: VideoIndex):
    videos = [v for v in range(len(index)) if why_not_dali("nvdec", index, v) is None]
    assert {index.codecs[v] for v in videos} >= {"h264", "mpeg4"}
    assert_decoders_agree(index, videos, "cuda:0")


@pytest.mark.gpu
def test_nvdec_and_pyav_agree_on_the_zoo(shared_data: Path, tmp_path: Path):
    index = build_index(shared_data / "zoo", tmp_path / "zoo.h5")
    videos = [v for v in range(len(index)) if why_not_dali("nvdec", index, v) is None]
    reader = FrameReader(index, SPEC, num_workers=1, timeout_seconds=60)
    known = [v for v in videos if colour_matrix(colour_space(reader, index, v)) is not None]
    reader.close()
    assert_decoders_agree(index, known, "cuda:0")
