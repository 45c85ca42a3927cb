"""The videos of a visit to a GPU, in packs: they need no other file, and no index to be built."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bench.parts.loader.data import copy_some, write_set, write_videos
from fastdual.demo.videos import DemoSet, write_demo
from fastdual.loaders.index import build_index, open_index
from fastdual.loaders.pack import PackOptions, Transcoding, pack

# How videos are packed, and how many of them at most. Of the widths 172 and 176 the second is a
# multiple of 16: then coded and shown size are one. Frames are ordered by phase, or as shown. DALI
# decodes MJPEG on a CPU, for a rehearsal.
PACKS = {
    "h264_128x176": (Transcoding(codec="h264", size=(128, 176)), 64),
    "h264_128x172": (Transcoding(codec="h264", size=(128, 172)), 32),
    "h264_shown_128x176": (Transcoding(codec="h264", size=(128, 176), stride=1, gop=8), 32),
    "raw": (None, 32),
    "mjpeg_128x176": (Transcoding(codec="mjpeg", size=(128, 176)), 4),
}
# Sizes whose coded size differs, and other formats; (encoder, width, height, options).
KINDS = (
    ("libx264", 340, 256, {"bf": "3"}),
    ("libx264", 960, 544, {}),
    ("libx264", 960, 540, {"bf": "2"}),
    ("libx264", 172, 128, {"x264-params": "open-gop=1:bframes=2:keyint=12"}),
    ("libx265", 352, 288, {"x265-params": "log-level=none"}),
    ("libx265", 340, 260, {"x265-params": "log-level=none:open-gop=0"}),
    ("mpeg4", 320, 240, {"bf": "2"}),
    ("libvpx-vp9", 340, 256, {}),
    ("libvpx", 320, 240, {}),
)
_DIFFERENT, _SECONDS = 4, 3


def write_data(folder: Path, data: Path | None, *, num_videos: int, scenes: int) -> None:
    """Write the packs of `PACKS`, kinds.h5 (one video of each of `KINDS`) and learn.h5.

    Args:
        folder: Where they go.
        data: Videos for `PACKS` (folder, CSV, index or pack); None writes some.
        num_videos: At most this many of them.
        scenes: Of the demo set, from which a network can learn something in minutes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        if data is None:
            write_set(work / "videos", num_videos, _DIFFERENT, seconds=_SECONDS)
        else:
            copy_some(open_index(data), work / "videos", num_videos)
        index = build_index(work / "videos", work / "videos.h5")
        for name, (transcoding, most) in PACKS.items():
            some = index.take(np.arange(min(most, len(index))))
            pack(some, folder / f"{name}.h5", PackOptions(transcoding=transcoding))
        _write_kinds(work / "kinds")
        kinds = build_index(work / "kinds", work / "kinds.h5")
        pack(kinds, folder / "kinds.h5", PackOptions())
        for _ in write_demo(work / "demo", DemoSet(train_scenes=scenes, test_scenes=1)):
            pass
        demo = build_index(work / "demo" / "videos.csv", work / "demo.h5")
        pack(demo, folder / "learn.h5", PackOptions())


def _write_kinds(folder: Path) -> None:
    """Encode one moving picture in every kind."""
    import av

    folder.mkdir(parents=True)
    write_videos(folder / "original", 1, seconds=_SECONDS)
    (original,) = (folder / "original").iterdir()
    for number, (encoder, width, height, options) in enumerate(KINDS):
        suffix = "webm" if "vpx" in encoder else "mp4"
        path = folder / f"{number}-{encoder}-{width}x{height}.{suffix}"
        with av.open(str(original)) as source, av.open(str(path), "w") as container:
            stream: Any = container.add_stream(encoder, rate=30, options=options)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for frame in source.decode(video=0):
                pixels = frame.to_ndarray(width=width, height=height, format="rgb24")
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
    original.unlink()
    (folder / "original").rmdir()
