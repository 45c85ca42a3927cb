"""Decoders of other libraries, each used as its authors advise, and two that are wrong on purpose.

Each takes a file, the numbers [F] of the frames and (height, width), and returns the resized frames
[F, h, w, 3] or [F, 3, h, w] uint8. Each scales in the decoder's pass where it can.
"""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Ints = NDArray[np.int64]
Decode = Callable[[Path, Ints, tuple[int, int]], Tensor]


def pyav(path: Path, frames: Ints, size: tuple[int, int]) -> Tensor:
    """Decode from the start with PyAV and keep the wanted frames, scaled by libav."""
    import av

    wanted, kept = set(frames.tolist()), []
    with av.open(str(path), metadata_errors="replace") as container:
        container.streams.video[0].codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                array = frame.to_ndarray(
                    format="rgb24", height=size[0], width=size[1], interpolation="BILINEAR"
                )
                kept.append(array)
                if len(kept) == len(frames):
                    break
    return torch.from_numpy(np.stack(kept))


def one_frame_late(path: Path, frames: Ints, size: tuple[int, int]) -> Tensor:
    """Decode wrongly: return the frame before each wanted one."""
    wrong, positions = np.unique(np.maximum(frames - 1, 0), return_inverse=True)
    return pyav(path, wrong, size)[torch.from_numpy(positions)]


def one_frame_early(path: Path, frames: Ints, size: tuple[int, int]) -> Tensor:
    """Decode wrongly: return the frame after each wanted one, if there is one."""
    both = np.union1d(frames, frames + 1)
    pictures = pyav(path, both, size)
    positions = torch.from_numpy(np.searchsorted(both, frames + 1))
    return pictures[positions.clamp_(max=len(pictures) - 1)]


def decord(path: Path, frames: Ints, size: tuple[int, int]) -> Tensor:
    """Decode with decord2 in one thread; it scales while it decodes."""
    import decord  # type: ignore[import-untyped]

    reader = decord.VideoReader(str(path), height=size[0], width=size[1], num_threads=1)
    return torch.from_numpy(reader.get_batch(frames.tolist()).asnumpy())


def spdl(path: Path, frames: Ints, size: tuple[int, int]) -> Tensor:
    """Decode with SPDL, which opens at the keyframes before the frames, and scales in its filter.

    Its authors want it in threads of one process, see `dataset.under_threads`.
    """
    import spdl.io

    filters = spdl.io.get_video_filter_desc(
        scale_height=size[0], scale_width=size[1], scale_algo="bilinear", scale_mode=None
    )
    packets = spdl.io.demux_video(str(path))
    pictures = spdl.io.sample_decode_video(packets, frames.tolist(), filter_desc=filters)
    scaled: Tensor = spdl.io.to_torch(spdl.io.convert_frames(pictures))
    return scaled


def video_reader(path: Path, frames: Ints, size: tuple[int, int]) -> Tensor:
    """Decode with video-reader-rs in one thread; it seeks or not by its own estimate.

    It scales to even sides alone; an odd one is reached by scaling the small picture once more.
    """
    from video_reader import PyVideoReader

    height, width = (length + length % 2 for length in size)
    reader = PyVideoReader(
        str(path), threads=1, target_height=height, target_width=width, resize_algo="bilinear"
    )
    pictures = torch.from_numpy(reader.get_batch(frames.tolist()))
    return pictures if (height, width) == size else _resize(pictures.permute(0, 3, 1, 2), size)


def torchcodec(
    path: Path,
    frames: Ints,
    size: tuple[int, int],
    *,
    seek_mode: Any = "exact",
    device: str = "cpu",
) -> Tensor:
    """Decode with torchcodec; it scales on a CPU while it decodes, on a GPU afterwards."""
    from torchcodec.decoders import VideoDecoder  # type: ignore[attr-defined]
    from torchcodec.transforms import Resize  # type: ignore[attr-defined]

    on_cpu = device == "cpu"
    decoder = VideoDecoder(
        str(path),
        num_ffmpeg_threads=1,
        seek_mode=seek_mode,
        device=device,
        transforms=[Resize(size)] if on_cpu else None,
    )
    pictures = decoder.get_frames_at(frames.tolist()).data
    return pictures if on_cpu else _resize(pictures, size)


def torchcodec_approximate(path: Path, frames: Ints, size: tuple[int, int]) -> Tensor:
    """Decode with torchcodec, which opens faster if it trusts the container's rate and count."""
    return torchcodec(path, frames, size, seek_mode="approximate")


def torchcodec_cuda(path: Path, frames: Ints, size: tuple[int, int]) -> Tensor:
    """Decode with torchcodec on NVDEC."""
    return torchcodec(path, frames, size, device="cuda")


def pynvvideocodec(path: Path, frames: Ints, size: tuple[int, int]) -> Tensor:
    """Decode with PyNvVideoCodec's decoder with random access, on NVDEC."""
    import PyNvVideoCodec as nvc

    decoder = nvc.SimpleDecoder(
        str(path), gpu_id=0, use_device_memory=True, output_color_type=nvc.OutputColorType.RGB
    )
    pictures = decoder.get_batch_frames_by_index(frames.tolist())
    stacked = torch.stack([torch.from_dlpack(picture) for picture in pictures])
    return _resize(stacked.permute(0, 3, 1, 2), size)


def jpeg(folder: Path, frames: Ints, size: tuple[int, int]) -> Tensor:
    """Read frames that were extracted beforehand, one file each, with PIL."""
    from PIL import Image

    pictures = []
    for number in frames.tolist():
        with Image.open(folder / f"{number:06}.jpg") as image:
            scaled = image.convert("RGB").resize(size[::-1], Image.Resampling.BILINEAR)
        pictures.append(np.asarray(scaled))
    return torch.from_numpy(np.stack(pictures))


def _resize(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    scaled = functional.interpolate(pictures.float(), size, mode="bilinear", antialias=True)
    return scaled.round().clamp_(0, 255).to(torch.uint8)


def lend_ffmpeg(folder: Path) -> dict[str, str]:
    """Return an environment in which torchcodec and SPDL find PyAV's FFmpeg: all decode alike.

    video-reader-rs finds what it brings itself only there, too.
    """
    import av

    libraries = Path(av.__file__).parent.with_name("av.libs")
    folder.mkdir(exist_ok=True)
    for library in libraries.glob("lib*-*.so.*"):
        name, _, rest = library.name.partition("-")
        link = folder / f"{name}.so.{rest.partition('.so.')[2].partition('.')[0]}"
        if name.startswith(("libav", "libsw")) and not link.exists():
            link.symlink_to(library)
    known = os.environ.get("LD_LIBRARY_PATH")
    paths = [str(folder), str(libraries), *([known] if known else [])]
    reader = importlib.util.find_spec("video_reader")
    if reader is not None and reader.origin is not None:
        paths.append(str(Path(reader.origin).parents[1] / "video_reader_rs.libs"))
    return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(paths)}
