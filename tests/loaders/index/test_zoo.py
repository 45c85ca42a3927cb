"""Every file of the zoo ends up usable, with an exact count, or quarantined with a plain reason."""

from pathlib import Path

import numpy as np
import pytest

from fastdual.loaders.index import VideoIndex, build_index
from fastdual.loaders.pack import PackOptions, pack
from tests.loaders.clips import read_frames
from tests.packages import av

pytestmark = pytest.mark.needs("av")

QUARANTINED = {
    "mp4parse-rust/afconvert-aac-0.5s.mp4": "has no video stream (only audio)",
    "mp4parse-rust/amr_wb_1f.3gp": "has no video stream (only audio)",
    "mp4parse-rust/bipbop-cenc-audioinit.mp4": "has no video stream (only audio)",
    "mp4parse-rust/bipbop_audioinit.mp4": "has no video stream (only audio)",
    "mp4parse-rust/bipbop_cbcs_audio_init.mp4": "has no video stream (only audio)",
    "mp4parse-rust/opus_audioinit.mp4": "has no video stream (only audio)",
    "mp4parse-rust/opus_audioinit_two_desc.mp4": "has no video stream (only audio)",
    "mp4parse-rust/sine-3s-xhe-aac-44khz-mono.mp4": "has no video stream (only audio)",
    "mp4parse-rust/bipbop_480wp_1001kbps-cenc-video-key1-init.mp4": "is encrypted",
    "mp4parse-rust/bipbop_cbcs_video_init.mp4": "is encrypted",
    "mp4parse-rust/bipbop_nonfragment_header.mp4": "is truncated: 0 of 25 frames are there",
    "mp4parse-rust/chunk_out_of_range.mp4": "is not a video, or its header is damaged",
    "mp4parse-rust/test_case_1185230.mp4": "frame 0 cannot be decoded",
    "pixeltable/bad_video.mp4": "is not a video, or its header is damaged",
}
ROTATED = {
    "decord/video_180.mov": 180,
    "decord/video_90.mov": 90,
    "moviepy/fire2.mp4": 180,
    "mp4parse-rust/video_rotation_90.mp4": 90,
    "torchcodec/nasa_13013_rotated.mp4": 270,
}
# Counts that differ from the container's: an edit list hides 16 frames; packed B-frames.
COUNTS = {
    "ibm-max-sports/baseball.mp4": 167,
    "torchvision/RATRACE_wave_f_nm_np1_fr_goo_37.avi": 72,
    "torchcodec/nasa_13013.mp4": 390,
    "mp4parse-rust/hevc_white_frame.mp4": 1,
}


@pytest.fixture(scope="module")
def index(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> VideoIndex:
    return build_index(
        shared_data / "zoo", tmp_path_factory.mktemp("zoo") / "zoo.h5", timeout_seconds=120
    )


def test_every_file_is_usable_or_quarantined_with_the_right_reason(index: VideoIndex) -> None:
    assert len(index) == 102
    found = dict(index.quarantine)
    assert found.keys() == QUARANTINED.keys()
    for path, reason in QUARANTINED.items():
        assert found[path].startswith(reason), f"{path}: {found[path]}"


@pytest.fixture(scope="module")
def second(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> VideoIndex:
    """Of phones, edit lists, fragments and broken headers."""
    file = tmp_path_factory.mktemp("zoo2") / "zoo2.h5"
    return build_index(shared_data / "zoo2", file, timeout_seconds=120)


@pytest.mark.parametrize(("zoo", "usable", "quarantined"), [("index", 102, 14), ("second", 27, 8)])
def test_every_usable_file_decodes_to_the_indexed_count(
    zoo: str, usable: int, quarantined: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Counted by PyAV alone, on the stream that libav calls the best; a pack has them all too."""
    index: VideoIndex = request.getfixturevalue(zoo)
    assert (len(index), len(index.quarantine)) == (usable, quarantined)
    packed = pack(index, tmp_path / "p.h5", PackOptions())
    assert packed.paths == index.paths
    assert packed.num_frames.tolist() == index.num_frames.tolist()
    for video in range(len(index)):
        with av.open(str(index.path(video)), metadata_errors="replace") as container:
            stream = container.streams.best("video")
            count = sum(1 for _ in container.decode(stream))
        assert count == index.num_frames[video], index.paths[video]


def test_counts_where_most_containers_lie(shared_data: Path, tmp_path: Path) -> None:
    index = build_index(shared_data / "ut_interaction.csv", tmp_path / "x.h5")
    wrong = 0
    for video in range(len(index)):
        with av.open(str(index.path(video)), metadata_errors="replace") as container:
            stated = container.streams.video[0].frames
            count = sum(1 for _ in container.decode(video=0))
        assert count == index.num_frames[video], index.paths[video]
        wrong += stated != count
    assert (len(index), wrong) == (120, 119)


def test_known_counts_and_rotations(index: VideoIndex) -> None:
    for path, count in COUNTS.items():
        assert index.num_frames[index.paths.index(path)] == count, path
    turned = {path: int(r) for path, r in zip(index.paths, index.rotation, strict=True) if r}
    assert turned == ROTATED


def test_seeking_gives_the_frames_of_a_full_decode(index: VideoIndex) -> None:
    rng = np.random.default_rng(1)
    seeks = 0
    for video in range(len(index)):
        table = index.keyframes(video)
        if table is None:
            continue
        size = (48, 64)
        whole = read_frames(index.path(video), np.arange(index.num_frames[video]), size=size)
        for _ in range(4):
            wanted = np.sort(rng.choice(len(whole), min(6, len(whole)), replace=False))
            part = read_frames(index.path(video), wanted, keyframes=table, size=size)
            assert np.array_equal(part, whole[wanted]), index.paths[video]
            seeks += 1
    assert seeks >= 80
