"""Re-encoding for a pack: every frame at its place, upright, in the right colours, repeatable."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fastdual.errors import FailureError, InputError
from fastdual.loaders.decode.encoded import Encoded, IndexedFile
from fastdual.loaders.decode.frame_order import FrameOrder
from fastdual.loaders.decode.video import VideoError, open_video
from fastdual.loaders.index.probe import examine_file
from fastdual.loaders.index.video import Video
from fastdual.loaders.pack.transcode import CODECS, Codec, Transcoding, pack_task, transcode
from tests.loaders.clips import encode, read_frames, read_number
from tests.packages import av

pytestmark = pytest.mark.needs("av")


def task_of(path: Path, found: Video) -> tuple[Encoded, Video, FrameOrder]:
    encoded = IndexedFile(path, path.stat().st_size, found.sha256)
    return encoded, found, FrameOrder(found.num_frames, 1, found.size)


def frames_of(
    source: Path | bytes, found: Video, size: tuple[int, int] | None = None, *, stride: int = 1
) -> NDArray[np.uint8]:
    """All frames as they are shown; `stride`: of the order in which they are stored."""
    numbers = np.arange(found.num_frames)
    stored = read_frames(source, numbers, size=size, rotation=found.rotation)
    return stored[FrameOrder(found.num_frames, stride, found.size).places_of(numbers)]


def numbers_in(frames: NDArray[np.uint8]) -> list[int]:
    return [read_number(frame) for frame in frames]


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("codec", CODECS)
def test_every_frame_keeps_its_number_and_its_look(
    tmp_path: Path, codec: Codec, stride: int
) -> None:
    source = encode(tmp_path / "a.mp4", 37, height=96, width=128, b_frames=2)
    before = examine_file(source)
    transcoding = Transcoding(codec=codec, short_side=64, stride=stride)
    contents, after = pack_task(transcoding, task_of(source, before))
    width = 96 if codec in ("h264", "hevc") else 86
    assert (after.num_frames, after.codec, after.size) == (37, codec, (64, width))
    ours = frames_of(contents, after, stride=stride)
    truth = frames_of(source, before, size=(64, width))
    assert numbers_in(ours) == list(range(37))
    # Each frame is nearer to its own original than to either neighbour of it, and near to it.
    error = np.abs(ours.astype(np.int16) - truth).mean(axis=(1, 2, 3))
    neighbour = np.abs(ours[1:].astype(np.int16) - truth[:-1]).mean(axis=(1, 2, 3))
    assert error.max() < 4 and (error[1:] < neighbour).all()


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_video_shorter_than_the_stride_keeps_every_frame(tmp_path: Path, count: int) -> None:
    source = encode(tmp_path / "a.mp4", count)
    contents, after = pack_task(Transcoding(stride=4), task_of(source, examine_file(source)))
    assert after.num_frames == count
    assert numbers_in(frames_of(contents, after, stride=4)) == list(range(count))


@pytest.mark.parametrize("codec", CODECS)
def test_the_same_source_gives_the_same_bytes(tmp_path: Path, codec: Codec) -> None:
    source = encode(tmp_path / "a.mp4", 20)
    task = task_of(source, examine_file(source))
    assert transcode(*task, Transcoding(codec=codec)) == transcode(*task, Transcoding(codec=codec))


@pytest.mark.parametrize("gop", [1, 5, 8])
@pytest.mark.parametrize("codec", ["h264", "hevc", "vp9"])
def test_groups_are_as_long_as_asked(tmp_path: Path, codec: Codec, gop: int) -> None:
    source = encode(tmp_path / "a.mp4", 24)
    transcoding = Transcoding(codec=codec, gop=gop, stride=1)
    _, found = pack_task(transcoding, task_of(source, examine_file(source)))
    # The index counts keyframes from frame 3 on: before that a seek saves nothing.
    assert found.keyframes.frames.tolist() == [n for n in range(0, 24, gop) if n >= 3]


@pytest.mark.parametrize("codec", ["h264", "hevc", "vp9"])
def test_groups_end_with_their_phase(tmp_path: Path, codec: Codec) -> None:
    source = encode(tmp_path / "a.mp4", 26)
    transcoding = Transcoding(codec=codec, gop=5, stride=4)
    _, found = pack_task(transcoding, task_of(source, examine_file(source)))
    # Phases of 7, 7, 6 and 6 frames, each with a keyframe after five.
    assert found.keyframes.frames.tolist() == [5, 7, 12, 14, 19, 20, 25]


def test_a_variable_rate_loses_and_doubles_no_frame(tmp_path: Path) -> None:
    times = [0, 1, 2, 30, 31, 90, 91, 92, 93, 400, 401, 402]
    source = encode(tmp_path / "a.mkv", len(times), times=times)
    before = examine_file(source)
    contents, after = pack_task(Transcoding(), task_of(source, before))
    assert numbers_in(frames_of(contents, after, stride=4)) == list(range(len(times)))
    with open_video(contents) as video:
        pts = [packet.pts * packet.time_base for packet in video.container.demux() if packet.size]
    assert set(np.diff(pts)) == {pts[1] - pts[0]}


def test_rotation_is_applied(tmp_path: Path) -> None:
    source = encode(tmp_path / "a.mp4", 12, rotation=90)
    before = examine_file(source)
    contents, after = pack_task(Transcoding(), task_of(source, before))
    assert (before.size, before.rotation) == ((48, 64), 270)
    assert (after.size, after.rotation) == ((64, 48), 0)
    truth, ours = frames_of(source, before), frames_of(contents, after, stride=4)
    assert np.abs(ours.astype(np.int16) - truth).mean() < 4


@pytest.mark.parametrize(
    ("settings", "size", "rotation", "expected"),
    [
        (Transcoding(), (48, 64), 0, (48, 64)),
        (Transcoding(), (47, 63), 0, (48, 64)),
        (Transcoding(), (47, 63), 90, (64, 48)),
        (Transcoding(size=(128, 171)), (480, 640), 0, (128, 176)),
        (Transcoding(size=(128, 176)), (480, 640), 90, (128, 176)),
        (Transcoding(size=(128, 171), codec="vp9"), (480, 640), 0, (128, 172)),
        (Transcoding(short_side=128), (540, 960), 0, (128, 240)),
        (Transcoding(short_side=128), (540, 960), 270, (240, 128)),
        (Transcoding(short_side=128, codec="mjpeg"), (540, 960), 0, (128, 228)),
        (Transcoding(short_side=128, codec="vp9"), (240, 321), 0, (128, 172)),
        (Transcoding(short_side=128, codec="vp9"), (97, 121), 0, (98, 122)),
    ],
)
def test_sizes_are_those_of_the_codec_and_hardly_enlarged_by_a_short_side(
    settings: Transcoding, size: tuple[int, int], rotation: int, expected: tuple[int, int]
) -> None:
    assert settings.output_size(size, rotation) == expected


def test_an_odd_source_is_encoded(tmp_path: Path) -> None:
    source = encode(tmp_path / "a.mkv", 9, height=47, codec="ffv1", pixels="yuv444p")
    contents, after = pack_task(Transcoding(), task_of(source, examine_file(source)))
    assert after.size == (48, 64) and numbers_in(frames_of(contents, after, stride=4)) == list(
        range(9)
    )


@pytest.mark.parametrize("codec", CODECS)
def test_the_smallest_picture_is_encoded(tmp_path: Path, codec: Codec) -> None:
    source = tmp_path / "a.mkv"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.height, stream.width, stream.pix_fmt = 2, 2, "yuv444p"
        frame = av.VideoFrame.from_ndarray(np.zeros((2, 2, 3), np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    _, after = pack_task(Transcoding(codec=codec), task_of(source, examine_file(source)))
    assert after.size == ((16, 16) if codec in ("h264", "hevc") else (2, 2))


@pytest.mark.parametrize("colour_space", [1, 5])
@pytest.mark.parametrize("codec", ["h264", "mjpeg"])
def test_flat_colours_stay_and_are_stated_as_bt601(
    tmp_path: Path, codec: Codec, colour_space: int
) -> None:
    source, colour = tmp_path / "a.mp4", (180, 60, 40)
    with av.open(str(source), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.colorspace = colour_space
        pixels = np.full((48, 64, 3), colour, np.uint8)
        for number in range(4):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=colour_space
            )
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    before = examine_file(source)
    contents, after = pack_task(Transcoding(codec=codec), task_of(source, before))
    with open_video(contents) as video:
        assert video.stream.codec_context.colorspace in (2, 5, 6)  # BT.601, or the default: BT.601
    shown = frames_of(source, before).mean(axis=(0, 1, 2))
    assert np.abs(frames_of(contents, after, stride=4).mean(axis=(0, 1, 2)) - shown).max() <= 2


@pytest.mark.parametrize("fps", [(0, 1), (30000, 1001), (1, 1000), (90000, 1), (15, 2)])
def test_any_frame_rate_can_be_written(tmp_path: Path, fps: tuple[int, int]) -> None:
    source = encode(tmp_path / "a.mp4", 6)
    task = task_of(source, replace(examine_file(source), fps=fps))
    _, found = pack_task(Transcoding(), task)
    rate = Fraction(*fps)
    assert found.num_frames == 6
    assert Fraction(*found.fps) == (rate if 1 <= rate <= 240 else 25)


def test_a_video_that_is_not_as_the_index_says_is_refused(tmp_path: Path) -> None:
    source = encode(tmp_path / "a.mp4", 12)
    task = encoded, found, order = task_of(source, examine_file(source))
    for stated, message in ((13, "has 12 frames, the index says 13"), (11, "has more frames than")):
        wrong = replace(found, num_frames=stated), replace(order, num_frames=stated)
        with pytest.raises(VideoError, match=message):
            pack_task(Transcoding(), (encoded, *wrong))
    with pytest.raises(VideoError, match="changes its frame size at frame 0"):
        pack_task(Transcoding(), (encoded, replace(found, size=(48, 62)), order))
    contents = source.read_bytes()
    source.write_bytes(contents[:-1] + bytes([contents[-1] ^ 1]))
    for transcoding in (None, Transcoding()):
        with pytest.raises(FailureError, match="was changed after it was indexed"):
            pack_task(transcoding, task)
    source.unlink()
    with pytest.raises(VideoError, match="cannot be read: No such file"):
        pack_task(None, task)
    with pytest.raises(VideoError, match="the file is missing"):
        pack_task(Transcoding(), task)


def test_bytes_that_stay_are_not_touched(tmp_path: Path) -> None:
    source = encode(tmp_path / "a.mp4", 12)
    task = task_of(source, examine_file(source))
    assert pack_task(None, task) == (source.read_bytes(), None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"codec": "av1"}, "codec is 'av1'; choose one of h264, hevc, vp9, mjpeg"),
        ({"size": (128, 171), "short_side": 128}, "exclude each other"),
        ({"size": (8, 128)}, "side must be 16 to 8192"),
        ({"short_side": 0}, "side must be 16 to 8192"),
        ({"gop": 0}, "gop is 0"),
        ({"quality": 52}, "quality of h264 is 52; use 1 to 51"),
        ({"codec": "mjpeg", "quality": 1}, "quality of mjpeg is 1; use 2 to 31"),
    ],
)
def test_values_that_do_not_fit_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Transcoding(**values)  # type: ignore[arg-type]
