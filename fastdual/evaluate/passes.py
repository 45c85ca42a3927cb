"""One pass over some videos of an index, each shown once and in order."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fastdual.loaders.batch.decoder import Requested
from fastdual.loaders.index import VideoIndex
from fastdual.loaders.loader import ClipLoader
from fastdual.loaders.plan import ClipSpec

_SPLIT = "videos of a pass"


def one_pass(
    index: VideoIndex,
    spec: ClipSpec,
    videos: NDArray[np.int64],
    *,
    batch_size: int,
    seed: int = 0,
    device: str = "cpu",
    decode: Requested = "auto",
    num_workers: int | None = None,
) -> ClipLoader:
    """Return a loader that shows each video once; its last batch may be smaller.

    Args:
        index: The videos.
        spec: Their clips.
        videos: [N] numbers of videos in the index, at least one.
        batch_size: Videos decoded together.
        seed: Of what the spec leaves to chance.
        device: Where the clips are wanted.
        decode: Decoder, or "auto".
        num_workers: Decoding processes; None: as many as suit this machine.
    """
    return ClipLoader(
        replace(index, splits={_SPLIT: videos}),
        spec,
        batch_size=min(batch_size, len(videos)),
        split=_SPLIT,
        seed=seed,
        device=device,
        decode=decode,
        num_workers=num_workers,
        shuffle=False,
        drop_last=False,
    )


def pictures(
    index: VideoIndex,
    videos: NDArray[np.int64],
    *,
    count: int,
    side: int,
    decode: Requested,
    num_workers: int | None,
) -> Iterator[tuple[list[int], Tensor]]:
    """Yield small pictures of videos, from the start of each to its end.

    Args:
        index: The videos.
        videos: [N] numbers of videos in the index, at least one.
        count: Pictures per video.
        side: Height and width of a picture, the centre of a frame.
        decode: Decoder; "nvdec" becomes "auto", because the pictures are wanted on the CPU.
        num_workers: Decoding processes.

    Yields:
        The numbers of B videos, and their pictures [B, count, 3, side, side], normalised.
    """
    spec = ClipSpec(
        mode="evaluate",
        frames_per_clip=1,
        frame_stride=1,
        num_segments=1,
        clips_per_video=count,
        resize_height=side,
        resize_width=side * 4 // 3,
        crop_size=side,
    )
    decode = "auto" if decode == "nvdec" else decode
    loader = one_pass(index, spec, videos, batch_size=32, decode=decode, num_workers=num_workers)
    with loader:
        for batch in loader:
            yield batch.video_ids.tolist(), batch.clips[:, :, :, 0]
