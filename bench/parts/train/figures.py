"""What bench.train measures beside the parts of a step: arithmetic, kernels, real loading."""

import re
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.parts.measure import silent_stderr
from bench.parts.results import Row
from bench.parts.train.case import Size
from bench.parts.train.contestants import Contestant
from fastdual.backbones import create_backbone
from fastdual.distributed.world import World
from fastdual.loaders.index import load_index
from fastdual.loaders.loader import ClipBatch
from fastdual.run.folder import RunFolder
from fastdual.training.start import create_loader

# Steps of one contestant with the real loader; the first few fill its queue.
REAL_STEPS, REAL_WARMUP = 20, 4
# Kind of a kernel or operator by its name: the first pattern that fits.
KINDS = {
    "convolution": r"conv|xmma|wgrad|dgrad|fprop|implicit|cudnn.*(nhwc|ndhwc)",
    "losses": r"contrastive|shuffle_rank",
    "norm": r"batch_norm|bn_|native_norm",
    "product": r"gemm|addmm|::mm|cutlass",
    "optimiser": r"multi_tensor|foreach|fused_sgd|fused_adam",
    "copy": r"memcpy|memset|copy|clone|cat\b|contiguous",
}


def training_gflop(backbone: str, size: Size) -> float:
    """Return the GFLOP of a training step per clip: forward, and twice as much backward."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = create_backbone(backbone).eval()  # batch norm of one value has no statistics
        network(torch.empty(1, 3, size.frames, size.crop, size.crop))
    return 3 * float(counter.get_total_flops()) / 1e9


def kernel_times(contestant: Contestant) -> dict[str, float]:
    """Return the milliseconds of kernels (on a CPU, of operators) in one step, by kind."""
    on_cuda = contestant.case.device.type == "cuda"
    activity = torch.profiler.ProfilerActivity
    activities = [activity.CUDA if on_cuda else activity.CPU]
    with silent_stderr(), torch.profiler.profile(activities=activities) as profile:
        contestant.step()
        if on_cuda:
            torch.cuda.synchronize()
    times = dict.fromkeys([*KINDS, "other"], 0.0)
    for event in profile.key_averages():
        microseconds = event.self_device_time_total if on_cuda else event.self_cpu_time_total
        if on_cuda and event.device_type != torch.autograd.DeviceType.CUDA:
            continue
        times[kind_of(event.key)] += microseconds / 1e3
    return times


def kind_of(kernel: str) -> str:
    """Return what a kernel or operator is for, by its name."""
    for kind, pattern in KINDS.items():
        if re.search(pattern, kernel.lower()):
            return kind
    return "other"


def real_rates(contestant: Contestant, data: Path) -> Row:
    """Return clips per second with our loader, and the share of time that steps wait for it.

    The layout of `paper` and `eager` is made of ours within the step: a copy that they pay for.

    Args:
        contestant: Takes the steps.
        data: An index or a pack.
    """
    device = contestant.case.device
    with TemporaryDirectory() as folder:
        loader = create_loader(
            load_index(data),
            None,
            contestant.config,
            contestant.execution,
            World(),
            RunFolder(Path(folder)),
        )
        with closing(loader):
            batches = _endless(loader)
            _take(contestant, islice(batches, REAL_WARMUP), device)
            started, waited = time.perf_counter(), loader.data_wait_seconds
            _take(contestant, islice(batches, REAL_STEPS), device)
            seconds = time.perf_counter() - started
            waited = loader.data_wait_seconds - waited
    clips = 4 * contestant.case.size.batch * REAL_STEPS
    return {
        "real_clips_per_second": round(clips / seconds, 2),
        "real_data_ms": round(1e3 * waited / REAL_STEPS, 2),
        "real_data_wait_share": round(waited / seconds, 4),
    }


def _take(contestant: Contestant, batches: Iterator[ClipBatch], device: torch.device) -> None:
    for batch in batches:
        contestant.step(batch)
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _endless(loader: Any) -> Iterator[ClipBatch]:
    while True:
        yield from loader
