"""Whether NVDEC shows what PyAV shows, video by video: a job of bench.gpu_check.

    python -m bench.parts.gpu_check.canary --data FOLDER --out PATH [--videos 200]

The same clip of every video is loaded by both, from frames that follow each other, and its pictures
are compared as the loader's own canary does it. One row per video.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.parts.results import Row, Table, describe_machine
from fastdual.errors import FailureError, InputError
from fastdual.loaders.batch.canary import find_fault
from fastdual.loaders.batch.decoder import Requested
from fastdual.loaders.index import VideoIndex, load_index
from fastdual.loaders.loader import ClipBatch, ClipLoader
from fastdual.loaders.plan import ClipSpec
from fastdual.loaders.views.augment import MEAN, STD

_BATCH = 8
# The whole picture, not augmented. Frames too small would hide a shift of few pixels.
_SPEC = ClipSpec(
    mode="evaluate", frames_per_clip=8, frame_stride=1, clips_per_video=1,
    resize_height=128, resize_width=176, crop_size=128,
)  # fmt: skip


def batches_of(index: VideoIndex, device: str, decode: Requested) -> Iterator[ClipBatch]:
    """Yield a clip of every video, in the index's order."""
    with ClipLoader(
        index, _SPEC, batch_size=min(_BATCH, len(index)), device=device, decode=decode,
        num_workers=1, shuffle=False, drop_last=False,
    ) as loader:  # fmt: skip
        yield from loader


def rows_of(index: VideoIndex, device: str, decode: Requested) -> Iterator[Row]:
    """Yield one row per video: who decoded it, and how that differs from PyAV."""
    truths = batches_of(index, "cpu", "pyav")
    for shown, truth in zip(batches_of(index, device, decode), truths, strict=True):
        decoders = getattr(shown, "decoders", (decode,) * len(shown.video_ids))
        ids = zip(shown.video_ids.tolist(), truth.video_ids.tolist(), strict=True)
        for place, (video, wanted) in enumerate(ids):
            height, width = index.size[wanted].tolist()
            row = {"video": index.paths[wanted], "kind": f"{index.codecs[wanted]} {width}x{height}"}
            clips = (batch.clips[place, 0].float().cpu() for batch in (shown, truth))
            upright = height if index.rotation[wanted] % 180 == 0 else width
            scale = _SPEC.resize_height / upright
            verdict, difference = compare(*(clip.movedim(1, 0) for clip in clips), scale)
            if video != wanted:
                verdict = "failed, another video is shown"
            elif decoders[place] == "pyav" and decode != "pyav":
                verdict = "left to PyAV"  # by the loader, whose reason is in the log
            yield row | {
                "verdict": verdict, "difference": difference, "decoder": decoders[place]
            }  # fmt: skip


def compare(shown: Tensor, truth: Tensor, scale: float) -> tuple[str, float]:
    """Return a verdict on a clip [T, C, H, W], and its mean difference, of 255.

    Args:
        shown: In question, normalised.
        truth: The right one.
        scale: Pixels of the clip per pixel of the video.
    """
    ours, right = pictures(shown), pictures(truth)
    difference = round(float(np.abs(ours.astype(float) - right).mean()), 2)
    last = len(ours) - 1
    for number in (*range(1, last), 0, last):  # those that lie between two neighbours tell more
        first = max(number - 1, 0)
        fault = find_fault(ours[number], right[first : number + 2], number - first, scale)
        if fault is not None:
            return fault, difference
    return "same", difference


def pictures(clip: Tensor) -> NDArray[np.uint8]:
    """Return the pictures [T, H, W, C] of a normalised clip [T, C, H, W]."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    values = (clip * std + mean).round().clamp(0, 255).byte()
    return np.asarray(values.movedim(1, 3).contiguous())


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of packs")
    parser.add_argument("--out", type=Path, required=True, help="results without extension")
    parser.add_argument("--packs", nargs="+", default=["kinds", "h264_128x172", "raw", "learn"])
    parser.add_argument("--videos", type=int, default=50, help="of a pack at most")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--decode", default="auto")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Compare every video that has no row yet."""
    options = parse(words)
    machine, table = describe_machine(torch.device(options.device)), Table(options.out, keep=True)
    for name in options.packs:
        index = load_index(options.data / f"{name}.h5")
        places = np.linspace(0, len(index) - 1, min(options.videos, len(index))).astype(np.int64)
        left = [v for v in places.tolist() if not table.has(pack=name, video=index.paths[v])]
        if not left:
            continue
        try:
            for row in rows_of(index.take(np.array(left)), options.device, options.decode):
                table.add({"pack": name, **row} | machine)
                print(row, flush=True)
        except (InputError, FailureError) as error:
            lost = {"pack": name, "video": "", "kind": "", "decoder": "", "difference": ""}
            table.add(lost | {"verdict": f"failed: {error}"} | machine)


if __name__ == "__main__":
    main()
