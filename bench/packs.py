"""What each way of packing costs and keeps: bytes, quality, packing and decoding.

    python -m bench.packs [--data written|FOLDER|INDEX ...] [--videos 6] [--draws 8] [--out PATH]

Every way packs the same videos at 128x171. Quality is that of all frames against the source, scaled
alike: PSNR, and SSIM of the luma over blocks of 8 pixels. Decoding is the CPU time of what a
pretraining row wants, two clips of 16 frames by the loader's own plan, at several strides, by the
loader's own reader; the ways take turns. Counted beside it: the frames that a decoder decodes for
one that is wanted, by the CPU's reader and by DALI's rule, which decodes on over jumps of up to ten
frames. "written" stands for 340x256 clips of ten seconds that are written for it.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a file
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from numpy.typing import NDArray

from bench.parts.loader.data import write_set
from bench.parts.results import RESULTS, Row, describe_machine, write_rows
from fastdual.errors import FailureError
from fastdual.loaders.batch.reader import unique_frames
from fastdual.loaders.decode.frame_order import FrameOrder
from fastdual.loaders.decode.read import read_planes
from fastdual.loaders.index import VideoIndex, open_index
from fastdual.loaders.index.video import Video
from fastdual.loaders.pack.transcode import Transcoding, pack_task
from fastdual.loaders.plan import ClipSpec, draw_plan

STRIDES = (1, 2, 4, 8)
_SIZE = (128, 171)
_DALI_LEAP = 10
# "shown order" is what fastdual packed before frames were ordered by phase.
WAYS: dict[str, Transcoding | None] = {
    "as they are": None,
    "h264, shown order, GOP 8": Transcoding(size=_SIZE, stride=1, gop=8, quality=20),
    "h264, GOP 8": Transcoding(size=_SIZE, gop=8),
    "h264, GOP 12": Transcoding(size=_SIZE, gop=12),
    "h264, GOP 16": Transcoding(size=_SIZE, gop=16),
    "h264, GOP 16, CRF 20": Transcoding(size=_SIZE, gop=16, quality=20),
    "hevc": Transcoding(codec="hevc", size=_SIZE),
    "vp9": Transcoding(codec="vp9", size=_SIZE),
    "mjpeg": Transcoding(codec="mjpeg", size=_SIZE),
}


@dataclass(frozen=True)
class Packed:
    """One video as one way stores it."""

    contents: Any
    facts: Video
    order: FrameOrder


def pack_all(index: VideoIndex, way: Transcoding | None) -> tuple[list[Packed], float]:
    """Return the videos of an index as a way stores them, and its CPU time."""
    started, packed = time.process_time(), []
    for number in range(len(index)):
        source, facts = index.source(number), index.video(number)
        contents, made = pack_task(way, (source, facts, index.frame_order(number)))
        made = made or facts
        stride = 1 if way is None else way.stride
        packed.append(Packed(contents, made, FrameOrder(made.num_frames, stride, made.size)))
    return packed, time.process_time() - started


def quality(index: VideoIndex, packed: Sequence[Packed]) -> dict[str, float]:
    """Return PSNR in dB and SSIM of all frames against the source, scaled to the same size."""
    errors, likeness = [], []
    for number, video in enumerate(packed):
        frames = np.arange(video.facts.num_frames)
        rotation = int(index.rotation[number])
        truth = read_planes(index.source(number), frames, size=_SIZE, rotation=rotation)
        upright = video.facts.rotation
        shown = read_planes(video.contents, frames, size=_SIZE, rotation=upright)
        shown = shown[video.order.places_of(frames)]
        errors.append(np.square(shown.astype(np.float32) - truth).mean())
        likeness.append(ssim(luma(shown), luma(truth)))
    error = float(np.mean(errors))
    psnr = 10 * np.log10(255**2 / error) if error else float("inf")
    return {"psnr": round(float(psnr), 2), "ssim": round(float(np.mean(likeness)), 4)}


def luma(planes: NDArray[np.uint8]) -> torch.Tensor:
    """Return BT.601 luma [F, 1, h, w] of RGB planes [F, 3, h, w]."""
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    return (torch.from_numpy(planes).float() * weights).sum(1, keepdim=True)


def ssim(ours: torch.Tensor, truth: torch.Tensor) -> float:
    """Return the mean structural similarity over 8x8 blocks, 4 pixels apart (Wang et al., 2004)."""

    def mean(values: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(values, 8, 4)

    a, b = mean(ours), mean(truth)
    spread, covariance = mean(ours**2) + mean(truth**2) - a * a - b * b, mean(ours * truth) - a * b
    small, smaller = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    alike = (2 * a * b + small) * (2 * covariance + smaller)
    return float((alike / ((a * a + b * b + small) * (spread + smaller))).mean())


def wanted_places(video: Packed, stride: int, draws: int) -> list[NDArray[np.int64]]:
    """Return what so many rows of pretraining want of a video, as places."""
    count = np.full(draws, video.facts.num_frames)
    spec = ClipSpec(frame_stride=stride)
    plan = draw_plan(spec, seed=0, epoch=0, videos=np.arange(draws), num_frames=count)
    return unique_frames(video.order.places_of(plan.frames))[0]


def decode(video: Packed, rows: Sequence[NDArray[np.int64]], size: tuple[int, int]) -> float:
    """Return the CPU time in which the loader's reader reads these rows."""
    started = time.process_time()
    for places in rows:
        read_planes(
            video.contents,
            places,
            keyframes=video.facts.keyframes,
            size=size,
            rotation=video.facts.rotation,
            num_frames=video.facts.num_frames,
        )
    return time.process_time() - started


def decoded_frames(video: Packed, places: NDArray[np.int64], leap: int) -> int:
    """Count what is decoded for some places: from a keyframe on, or on over a small jump."""
    keyframes = np.concatenate([[0], video.facts.keyframes.frames])
    position = count = 0
    for place in places.tolist():
        nearest = int(keyframes[np.searchsorted(keyframes, place, side="right") - 1])
        if nearest > position and place > position + leap:
            position = nearest
        count += place - position + 1
        position = place + 1
    return count


def measure(index: VideoIndex, draws: int, turns: int = 3) -> list[Row]:
    """Return one row per way of packing."""
    packed, rows = {}, {}
    for name, way in WAYS.items():
        videos, seconds = pack_all(index, way)
        packed[name] = videos
        frames = sum(video.facts.num_frames for video in videos)
        rows[name] = {
            "way": name,
            "bytes_per_frame": round(sum(len(v.contents) for v in videos) / frames, 1),
            "pack_ms_per_frame": round(1e3 * seconds / frames, 3),
            **quality(index, videos),
        }
        print(f"{name}: {rows[name]}", file=sys.stderr, flush=True)
    for stride in STRIDES:
        times: dict[str, list[float]] = {name: [] for name in WAYS}
        wants = {n: [wanted_places(v, stride, draws) for v in packed[n]] for n in WAYS}
        for _ in range(turns):
            for name, videos in packed.items():
                pairs = zip(videos, wants[name], strict=True)
                times[name].append(sum(decode(video, want, _SIZE) for video, want in pairs))
        for name, videos in packed.items():
            count = draws * len(videos)
            rows[name][f"decode_ms_stride_{stride}"] = round(1e3 * min(times[name]) / count, 2)
            for kind, leap in (("cpu", 0), ("dali", _DALI_LEAP)):
                decoded = sum(
                    decoded_frames(video, places, leap)
                    for video, want in zip(videos, wants[name], strict=True)
                    for places in want
                )
                rows[name][f"{kind}_frames_stride_{stride}"] = round(decoded / count, 1)
    return list(rows.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.packs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, nargs="+", default=[Path("written")])
    parser.add_argument("--videos", type=int, default=6, help="of each set, evenly chosen")
    parser.add_argument("--draws", type=int, default=8, help="rows of pretraining for each video")
    parser.add_argument("--out", type=Path, default=RESULTS / "packs_cpu")
    parsed = parser.parse_args(arguments)
    torch.set_num_threads(1)
    machine, rows = describe_machine(torch.device("cpu")), []
    with tempfile.TemporaryDirectory(prefix="bench-packs-") as folder:
        for path in parsed.data:
            name, place = path.stem, path
            if name == "written":
                place = Path(folder) / "videos"
                write_set(place, parsed.videos)
            index = open_index(place)
            chosen = np.unique(np.linspace(0, len(index) - 1, parsed.videos).round().astype(int))
            index = index.take(chosen)
            facts = {"data": name, "videos": len(index), "frames": int(index.num_frames.sum())}
            rows += [facts | row | machine for row in measure(index, parsed.draws)]
            write_rows(rows, parsed.out)
    for row in rows:
        print(f"{row['data']:16} {row['way']:26} {row['bytes_per_frame']:8.0f} B/frame "
              f"{row['psnr']:6.2f} dB, decoding at stride 4: {row['decode_ms_stride_4']:6.2f} ms, "
              f"{row['dali_frames_stride_4']:5.1f} frames")  # fmt: skip
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except FailureError as error:
        sys.exit(f"error: {error}")
