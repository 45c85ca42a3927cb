"""Batches from another library's decoder: the same plan, augmentation in tensor operations.

Every contestant decodes each wanted frame once, and one core decodes per worker. A file is opened
once for both clips; view 2 and the shuffled view are gathered from what was decoded.
"""

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from bench.parts.loader.decoders import Decode, Ints
from fastdual.loaders.batch.reader import unique_frames
from fastdual.loaders.index import VideoIndex
from fastdual.loaders.order import EpochOrder
from fastdual.loaders.plan import ClipPlan, ClipSpec, draw_plan
from fastdual.loaders.views.augment import MEAN, STD

SEED = 0  # of order and plan, for all contestants
_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])
_TO_RGB = torch.linalg.inv(_TO_YIQ)


def augment(pictures: Tensor, plan: ClipPlan, order: Ints, spec: ClipSpec) -> Tensor:
    """Return the views of one video.

    Args:
        pictures: Resized frames [F, h, w, 3] or [F, 3, h, w] uint8.
        plan: The plan of this video alone.
        order: Positions [1, K, T] of the clips' frames among `pictures`.
        spec: The specification of the plan.

    Returns:
        Normalised views [V, C, T, H, W] float32.
    """
    if pictures.shape[-1] == 3:
        pictures = pictures.permute(0, 3, 1, 2)
    device, crop = pictures.device, spec.crop_size
    mean, std = (torch.tensor(v, device=device)[:, None, None, None] for v in (MEAN, STD))
    views = []
    for view, clip in enumerate(plan.view_clip):
        y, x = int(plan.crop_y[0, view]), int(plan.crop_x[0, view])
        positions = torch.from_numpy(order[0, clip]).to(device)
        frames = pictures[:, :, y : y + crop, x : x + crop][positions]
        pixels = frames.transpose(0, 1).float()  # [3, T, H, W]
        pixels = jitter(pixels, plan.jitter[0, view].tolist())
        pixels = blur(pixels, float(plan.blur_sigma[0, view]))
        views.append(pixels.sub_(mean).div_(std))
    if plan.permutation is not None:
        segments = views[2].unflatten(1, (spec.num_segments, -1))
        views.append(segments[:, torch.from_numpy(plan.permutation[0]).to(device)].flatten(1, 2))
    return torch.stack(views)


def jitter(pixels: Tensor, values: list[float]) -> Tensor:
    """Return pixels [3, T, H, W] after colour jitter: one matrix product over all of them.

    Contrast turns about their mean grey.
    """
    brightness, contrast, saturation, hue = values
    if values == [1.0, 1.0, 1.0, 0.0]:
        return pixels
    cosine, sine = math.cos(math.radians(hue)), math.sin(math.radians(hue))
    chroma = torch.eye(3)
    chroma[1:, 1:] = saturation * torch.tensor([[cosine, sine], [-sine, cosine]])
    matrix = (brightness * contrast) * (_TO_RGB @ chroma @ _TO_YIQ).to(pixels.device)
    grey = pixels.flatten(1).mean(1) @ _TO_YIQ[0].to(pixels.device)
    mixed = (matrix @ pixels.flatten(1)).add_(brightness * grey * (1 - contrast))
    return mixed.clamp_(0, 255).view_as(pixels)


def blur(pixels: Tensor, sigma: float) -> Tensor:
    """Return pixels [3, T, H, W] after a separable Gaussian blur out to 3 sigma."""
    if sigma == 0:
        return pixels
    reach = math.ceil(3 * sigma)
    offsets = torch.arange(-reach, reach + 1, device=pixels.device)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    weights = weights / weights.sum()
    planes = pixels.flatten(0, 1)[:, None]  # [3 T, 1, H, W]
    planes = functional.pad(planes, (reach, reach, reach, reach), mode="reflect")
    planes = functional.conv2d(planes, weights[None, None, :, None])
    return functional.conv2d(planes, weights[None, None, None, :]).view_as(pixels)


@dataclass
class VideoDataset(torch.utils.data.Dataset[Tensor]):
    """The samples of all epochs in a row, in the order and by the plan of our loader."""

    index: VideoIndex
    spec: ClipSpec
    decode: Decode
    batch_size: int
    num_batches: int
    frames_folder: Path | None = None
    order: EpochOrder = field(init=False)

    def __post_init__(self) -> None:
        videos = self.index.split(None)
        self.order = EpochOrder(videos, global_batch_size=self.batch_size, seed=SEED)

    def __len__(self) -> int:
        return self.batch_size * self.num_batches

    def __getitem__(self, number: int) -> Tensor:
        if number >= len(self):
            raise IndexError(number)
        epoch, step = divmod(number // self.batch_size, self.order.batches_per_epoch)
        videos = self.order.batch(epoch, step)[number % self.batch_size][None]
        num_frames = self.index.num_frames[videos]
        plan = draw_plan(self.spec, seed=SEED, epoch=epoch, videos=videos, num_frames=num_frames)
        (wanted,), order = unique_frames(self.index.places(videos, plan.frames))
        path = self.index.path(int(videos[0]))
        if self.frames_folder is not None:
            path = self.frames_folder / self.index.paths[int(videos[0])]
        size = self.spec.resize_height, self.spec.resize_width
        return augment(self.decode(path, wanted, size), plan, order, self.spec)


def under_dataloader(dataset: VideoDataset, *, num_workers: int) -> Iterator[Tensor]:
    """Yield batches [B, V, C, T, H, W] from worker processes of torch's DataLoader."""
    loader = torch.utils.data.DataLoader(dataset, dataset.batch_size, num_workers=num_workers)
    yield from loader


def under_threads(dataset: VideoDataset, *, num_workers: int) -> Iterator[Tensor]:
    """Yield batches from threads: as SPDL wants it; and a CUDA decoder does not survive a fork."""
    with ThreadPoolExecutor(num_workers) as threads:
        tasks = (threads.submit(dataset.__getitem__, number) for number in range(len(dataset)))
        pending = deque(islice(tasks, dataset.batch_size + 2 * num_workers))
        for _ in range(dataset.num_batches):
            batch = []
            for _ in range(dataset.batch_size):
                batch.append(pending.popleft().result())
                pending.extend(islice(tasks, 1))
            yield torch.stack(batch)
