"""Other people's decoders under torch's DataLoader, with the augmentation in tensor operations.

Each rival gets what its authors would ask for: it decodes each wanted frame once, scales in the
decoder's pass where it can, and one core decodes per worker. Frames of clips 1 and 2 come from one
open; view 2 and the shuffled view are gathered from what was decoded.
"""

import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fastdual.loaders.batch.reader import unique_frames
from fastdual.loaders.index import VideoIndex
from fastdual.loaders.order import EpochOrder
from fastdual.loaders.plan import ClipPlan, ClipSpec, draw_plan

Ints = NDArray[np.int64]
Decode = Callable[[Path, Ints, tuple[int, int]], Tensor]
"""(file, [F] frame numbers, (height, width)) -> [F, h, w, 3] or [F, 3, h, w] uint8."""

MEAN = torch.tensor([0.485, 0.456, 0.406]) * 255
STD = torch.tensor([0.229, 0.224, 0.225]) * 255
_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])
_TO_RGB = torch.linalg.inv(_TO_YIQ)


def decode_pyav(path: Path, frames: Ints, size: tuple[int, int]) -> Tensor:
    """Decode on from the start and keep what is wanted, scaled by libav."""
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


def decode_one_frame_late(path: Path, frames: Ints, size: tuple[int, int]) -> Tensor:
    """A wrong loader: it shows what came one frame before."""
    wrong, places = np.unique(np.maximum(frames - 1, 0), return_inverse=True)
    return decode_pyav(path, wrong, size)[torch.from_numpy(places)]


def decode_one_frame_early(path: Path, frames: Ints, size: tuple[int, int]) -> Tensor:
    """A wrong loader: it shows what comes one frame later, if there is one."""
    both = decode_pyav(path, np.union1d(frames, frames + 1), size)
    places = np.searchsorted(np.union1d(frames, frames + 1), frames + 1)
    return both[torch.from_numpy(places).clamp_(max=len(both) - 1)]


def decode_decord(path: Path, frames: Ints, size: tuple[int, int]) -> Tensor:
    """One thread; decord scales while it decodes."""
    import decord  # type: ignore[import-untyped]

    reader = decord.VideoReader(str(path), height=size[0], width=size[1], num_threads=1)
    return torch.from_numpy(reader.get_batch(frames.tolist()).asnumpy())


def decode_torchcodec(
    path: Path,
    frames: Ints,
    size: tuple[int, int],
    *,
    seek_mode: Any = "exact",
    device: str = "cpu",
) -> Tensor:
    """torchcodec; on a CPU it scales while it decodes, on a GPU afterwards."""
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


def decode_torchcodec_approximate(path: Path, frames: Ints, size: tuple[int, int]) -> Tensor:
    """Opens faster, because it trusts the container's frame rate and count."""
    return decode_torchcodec(path, frames, size, seek_mode="approximate")


def decode_torchcodec_cuda(path: Path, frames: Ints, size: tuple[int, int]) -> Tensor:
    """NVDEC through torchcodec."""
    return decode_torchcodec(path, frames, size, device="cuda")


def decode_pynvvideocodec(path: Path, frames: Ints, size: tuple[int, int]) -> Tensor:
    """NVDEC through PyNvVideoCodec's decoder with random access."""
    import PyNvVideoCodec as nvc

    decoder = nvc.SimpleDecoder(
        str(path), gpu_id=0, use_device_memory=True, output_color_type=nvc.OutputColorType.RGB
    )
    pictures = decoder.get_batch_frames_by_index(frames.tolist())
    stacked = torch.stack([torch.from_dlpack(picture) for picture in pictures])
    return _resize(stacked.permute(0, 3, 1, 2), size)


def decode_jpeg(folder: Path, frames: Ints, size: tuple[int, int]) -> Tensor:
    """Frames that were extracted beforehand, one file each, through PIL."""
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


def augment(pictures: Tensor, plan: ClipPlan, order: Ints, spec: ClipSpec) -> Tensor:
    """The views of one video.

    Args:
        pictures: [F, h, w, 3] or [F, 3, h, w] uint8, resized.
        plan: of this video alone.
        order: [1, K, T] places of the clips' frames among `pictures`.
        spec: of the plan.

    Returns:
        [V, C, T, H, W] float32, normalised.
    """
    if pictures.shape[-1] == 3:
        pictures = pictures.permute(0, 3, 1, 2)
    device, crop = pictures.device, spec.crop_size
    views = []
    for view, clip in enumerate(plan.view_clip):
        y, x = int(plan.crop_y[0, view]), int(plan.crop_x[0, view])
        places = torch.from_numpy(order[0, clip]).to(device)
        frames = pictures[:, :, y : y + crop, x : x + crop][places]
        pixels = frames.transpose(0, 1).float()  # [3, T, H, W]
        pixels = jitter(pixels, plan.jitter[0, view].tolist())
        pixels = blur(pixels, float(plan.blur_sigma[0, view]))
        mean, std = (values.to(device)[:, None, None, None] for values in (MEAN, STD))
        views.append(pixels.sub_(mean).div_(std))
    if plan.permutation is not None:
        segments = views[2].unflatten(1, (spec.num_segments, -1))
        views.append(segments[:, torch.from_numpy(plan.permutation[0]).to(device)].flatten(1, 2))
    return torch.stack(views)


def jitter(pixels: Tensor, values: list[float]) -> Tensor:
    """Colour jitter as one matrix product over all pixels, [3, T, H, W]."""
    brightness, contrast, saturation, hue = values
    if values == [1.0, 1.0, 1.0, 0.0]:
        return pixels
    cosine, sine = math.cos(math.radians(hue)), math.sin(math.radians(hue))
    chroma = torch.eye(3)
    chroma[1:, 1:] = saturation * torch.tensor([[cosine, sine], [-sine, cosine]])
    matrix = (brightness * contrast) * (_TO_RGB @ chroma @ _TO_YIQ).to(pixels.device)
    mixed = (matrix @ pixels.flatten(1)).add_(brightness * 128 * (1 - contrast))
    return mixed.clamp_(0, 255).view_as(pixels)


def blur(pixels: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian blur, out to 3 sigma, [3, T, H, W]."""
    if sigma == 0:
        return pixels
    reach = math.ceil(3 * sigma)
    places = torch.arange(-reach, reach + 1, device=pixels.device)
    weights = torch.exp(-0.5 * (places / sigma) ** 2)
    weights = weights / weights.sum()
    planes = pixels.flatten(0, 1)[:, None]  # [3 T, 1, H, W]
    planes = functional.pad(planes, (reach, reach, reach, reach), mode="reflect")
    planes = functional.conv2d(planes, weights[None, None, :, None])
    return functional.conv2d(planes, weights[None, None, None, :]).view_as(pixels)


@dataclass
class VideoDataset(torch.utils.data.Dataset[Tensor]):
    """The samples of all epochs in a row, in the order and with the plan of our loader."""

    index: VideoIndex
    spec: ClipSpec
    decode: Decode
    batch_size: int
    num_batches: int
    seed: int = 0
    frames_folder: Path | None = None
    order: EpochOrder = field(init=False)

    def __post_init__(self) -> None:
        self.order = EpochOrder(
            self.index.split(None), global_batch_size=self.batch_size, seed=self.seed
        )

    def __len__(self) -> int:
        return self.batch_size * self.num_batches

    def __getitem__(self, number: int) -> Tensor:
        if number >= len(self):
            raise IndexError(number)
        epoch, step = divmod(number // self.batch_size, self.order.batches_per_epoch)
        videos = self.order.batch(epoch, step)[number % self.batch_size][None]
        plan = draw_plan(
            self.spec,
            seed=self.seed,
            epoch=epoch,
            videos=videos,
            num_frames=self.index.num_frames[videos],
        )
        (wanted,), order = unique_frames(plan)
        path = self.index.path(int(videos[0]))
        if self.frames_folder is not None:
            path = self.frames_folder / self.index.paths[int(videos[0])]
        size = self.spec.resize_height, self.spec.resize_width
        return augment(self.decode(path, wanted, size), plan, order, self.spec)


def under_dataloader(dataset: VideoDataset, *, num_workers: int) -> Iterator[Tensor]:
    """Batches [B, V, C, T, H, W] from worker processes of torch's DataLoader."""
    loader = torch.utils.data.DataLoader(dataset, dataset.batch_size, num_workers=num_workers)
    yield from loader


def under_threads(dataset: VideoDataset, *, num_workers: int) -> Iterator[Tensor]:
    """Batches from threads: a CUDA decoder cannot follow a forked process."""
    from concurrent.futures import ThreadPoolExecutor

    numbers = iter(range(len(dataset)))
    with ThreadPoolExecutor(num_workers) as threads:
        ahead = dataset.batch_size + 2 * num_workers
        pending = deque(
            threads.submit(dataset.__getitem__, number) for number in islice(numbers, ahead)
        )
        for _ in range(dataset.num_batches):
            batch = []
            for _ in range(dataset.batch_size):
                batch.append(pending.popleft().result())
                pending.extend(
                    threads.submit(dataset.__getitem__, number) for number in islice(numbers, 1)
                )
            yield torch.stack(batch)


def lend_ffmpeg(folder: Path) -> dict[str, str]:
    """The environment in which torchcodec finds the FFmpeg inside PyAV: the very same decoder."""
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
    return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(paths)}
