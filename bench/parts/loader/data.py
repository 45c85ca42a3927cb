"""The data of bench.loader: the chosen videos as files, as packs, and as extracted JPEG frames."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdual.loaders.decode.encoded import read_encoded
from fastdual.loaders.index import VideoIndex, build_index, open_index
from fastdual.loaders.pack import PackOptions, Transcoding, pack
from fastdual.loaders.pool import ProcessPool, TaskFailure

_HEIGHT, _WIDTH, _RATE, _SECONDS = 256, 340, 30, 10
_DIFFERENT = 6  # videos of a written set; the others are copies
_JPEG_SHORT_SIDE, _JPEG_QUALITY = 256, 90
_PACKS = {
    "pack": None,
    "h264": Transcoding(size=(128, 171)),
    "shown order": Transcoding(size=(128, 171), stride=1, gop=8, quality=20),
    "mjpeg": Transcoding(codec="mjpeg", size=(128, 171)),
}


@dataclass(frozen=True)
class Prepared:
    """Where the data of a run are, and what it cost to make them.

    Attributes:
        index: The index of the videos as files.
        bytes_per_video: Bytes by what is read: "videos", "jpeg" or the name of a pack.
        seconds_to_make: Wall time, by the same names.
    """

    index: VideoIndex
    bytes_per_video: dict[str, float]
    seconds_to_make: dict[str, float]


def prepare(
    data: Path | None, folder: Path, *, num_videos: int, wanted: set[str], num_workers: int
) -> Prepared:
    """Write what the contestants read into a folder: videos.h5, videos/, packs and jpeg/.

    Args:
        data: Folder, CSV, index or pack; None for a written set.
        folder: Where the results go.
        num_videos: At most this many are used.
        wanted: Names of what is read, as in `Prepared`.
        num_workers: Worker processes.
    """
    videos = folder / "videos"
    if data is None:
        write_set(videos, num_videos)
    else:
        copy_some(open_index(data), videos, num_videos)
    index = build_index(videos, folder / "videos.h5", num_workers=num_workers)
    nbytes, seconds = {"videos": float(index.file_bytes.mean())}, {"videos": 0.0}
    for name, transcoding in _PACKS.items():
        if name not in wanted:
            continue
        start = time.perf_counter()
        path = folder / f"{name}.h5"
        pack(index, path, PackOptions(transcoding=transcoding, num_workers=num_workers))
        seconds[name] = time.perf_counter() - start
        nbytes[name] = path.stat().st_size / len(index)
    if "jpeg" in wanted:
        start = time.perf_counter()
        nbytes["jpeg"] = extract_frames(index, folder / "jpeg", num_workers) / len(index)
        seconds["jpeg"] = time.perf_counter() - start
    return Prepared(index, nbytes, seconds)


def copy_some(index: VideoIndex, folder: Path, count: int) -> None:
    """Write evenly chosen videos as files, none of them rotated: libraries disagree on rotation."""
    upright = np.flatnonzero(index.rotation == 0)
    places = np.linspace(0, len(upright) - 1, min(count, len(upright))).astype(int)
    for video in upright[places].tolist():
        path = folder / index.paths[video]
        path.parent.mkdir(parents=True, exist_ok=True)
        read_encoded(index.source(video)).tofile(path)


def write_set(folder: Path, count: int, different: int = _DIFFERENT, **options: int) -> None:
    """Write so many clips; all but the `different` first are copies, because drawing takes long.

    The options are those of `write_videos`.
    """
    write_videos(folder, min(count, different), **options)
    originals = sorted(folder.iterdir())
    for number in range(len(originals), count):
        shutil.copy(originals[number % len(originals)], folder / f"{number:04}.mp4")


def write_videos(folder: Path, count: int, *, seconds: int = _SECONDS, scale: int = 1) -> None:
    """Write 340x256 H.264 clips with x264's defaults, each of a texture that moves in its own way.

    Long groups of pictures, B-frames, a panning textured ground, discs that cross it and a little
    grain: unlike flat drawings, they cost as much to decode as a clip of a phone.

    Args:
        folder: Where the files go.
        count: Number of files.
        seconds: Length of each.
        scale: Factor by which the pictures are smaller.
    """
    import av

    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        random = np.random.default_rng(number)
        with av.open(str(folder / f"{number:04}.mp4"), "w") as container:
            stream: Any = container.add_stream("libx264", rate=_RATE, options={"crf": "23"})
            stream.height, stream.width = (length // scale // 2 * 2 for length in (_HEIGHT, _WIDTH))
            stream.pix_fmt = "yuv420p"
            for picture in _moving_pictures(random, seconds * _RATE):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame = frame.reformat(stream.width, stream.height) if scale > 1 else frame
                container.mux(stream.encode(frame))
            container.mux(stream.encode())


def _moving_pictures(random: np.random.Generator, count: int) -> Any:
    ground = _texture(random, _HEIGHT + 128, _WIDTH + 128)
    grain = random.normal(0, 3, (4, _HEIGHT, _WIDTH, 1))
    rows, columns = np.mgrid[:_HEIGHT, :_WIDTH]
    colours = random.uniform(0, 255, (4, 3))
    speed, phase = random.uniform(0.5, 2.0, (4, 2)), random.uniform(0, 6.28, (4, 2))
    for number in range(count):
        seconds = number / _RATE
        y, x = (64 + 60 * np.sin(seconds * speed[0] + phase[0])).astype(int)
        picture = ground[y : y + _HEIGHT, x : x + _WIDTH].copy()
        for colour, pace, start in zip(colours, speed, phase, strict=True):
            centre = 0.5 + 0.4 * np.sin(seconds * pace * 2 + start)
            near = np.hypot(rows - centre[0] * _HEIGHT, columns - centre[1] * _WIDTH) < 30
            picture[near] = 0.3 * picture[near] + 0.7 * colour
        yield np.clip(picture + grain[number % 4], 0, 255).astype(np.uint8)


def _texture(random: np.random.Generator, height: int, width: int) -> NDArray[np.float64]:
    """Return noise [height, width, 3] in 0..255 of several grain sizes, the coarsest strongest."""
    picture = np.zeros((height, width, 3))
    for grain in (64, 16, 4):
        coarse = random.normal(0, 12 * grain**0.4, (height // grain + 1, width // grain + 1, 3))
        picture += np.kron(coarse, np.ones((grain, grain, 1)))[:height, :width]
    return np.clip(picture + 128, 0, 255)


def extract_frames(index: VideoIndex, folder: Path, num_workers: int) -> int:
    """Write every frame as a JPEG file, short side at most 256 pixels; return the total bytes."""
    tasks = [
        (str(index.path(video)), str(folder / index.paths[video])) for video in range(len(index))
    ]
    total = 0
    with ProcessPool(
        "bench.parts.loader.data:extract_task", num_workers=num_workers, timeout_seconds=600
    ) as pool:
        for _, written in pool.imap(tasks, window=2 * num_workers):
            if isinstance(written, TaskFailure):
                raise RuntimeError(f"frames cannot be extracted: {written.reason}")
            total += written
    return total


def extract_task(task: tuple[str, str]) -> int:
    """Write the frames of one video as JPEG files; return their bytes. Runs in a worker."""
    import av
    from PIL import Image

    source, folder = task[0], Path(task[1])
    folder.mkdir(parents=True, exist_ok=True)
    total = 0
    with av.open(source, metadata_errors="replace") as container:
        for number, frame in enumerate(container.decode(video=0)):
            image = frame.to_image()
            scale = min(1.0, _JPEG_SHORT_SIDE / min(image.size))
            if scale < 1:
                size = tuple(round(side * scale) for side in image.size)
                image = image.resize(size, Image.Resampling.BILINEAR)
            path = folder / f"{number:06}.jpg"
            image.save(path, quality=_JPEG_QUALITY)
            total += path.stat().st_size
    return total
