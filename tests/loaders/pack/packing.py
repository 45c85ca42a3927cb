"""Options to pack with, and what a pack shows."""

import numpy as np

from fastdual.loaders.index import VideoIndex
from fastdual.loaders.loader import ClipBatch, ClipLoader
from fastdual.loaders.pack import PackOptions, Transcoding
from fastdual.loaders.plan import ClipSpec
from tests.loaders.clips import read_frames, read_number

AS_IS = PackOptions(num_workers=1)
SMALL = PackOptions(transcoding=Transcoding(short_side=32), num_workers=1)
PLAIN = PackOptions(transcoding=Transcoding(stride=1), num_workers=1)
VP9 = PackOptions(transcoding=Transcoding(codec="vp9"), num_workers=1)
SPEC = ClipSpec(frames_per_clip=4, frame_stride=2, resize_height=32, resize_width=43, crop_size=28)


def numbers_in(index: VideoIndex, video: int) -> list[int]:
    """The numbers that the frames of a video show, each read by itself through the seek table."""
    shown = []
    for frame in range(index.num_frames[video]):
        (picture,) = read_frames(
            index.source(video),
            index.places(np.array([video]), np.array([[frame]]))[0],
            keyframes=index.keyframes(video),
            rotation=int(index.rotation[video]),
        )
        shown.append(read_number(np.rot90(picture, -1) if video == 1 else picture))
    return shown


def one_epoch(index: VideoIndex, **options: object) -> list[ClipBatch]:
    arguments = {"batch_size": 2, "num_workers": 1, "shuffle": False, **options}
    with ClipLoader(index, SPEC, **arguments) as loader:  # type: ignore[arg-type]
        return list(loader)
