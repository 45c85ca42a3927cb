"""The loader while the same GPU convolves: the number that decides the loader's design.

    python -m bench.parts.gpu_check.contention --data FOLDER --out PATH [--seconds 8]

An idle GPU tells nothing: every frame that NVDEC decodes waits for kernels that stand behind those
of the training. So each loader is timed alone, then beside steps of a network, and the steps are
timed alone and beside it. One row per loader; those of PyAV whose views a CPU or Triton makes need
no DALI.
"""

import argparse
import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.parts.gpu_check.run import is_installed
from bench.parts.results import Row, Table, describe_machine
from fastdual.backbones import create_backbone
from fastdual.errors import FailureError, InputError
from fastdual.loaders.batch.decoder import Requested, RequestedAugment
from fastdual.loaders.index import VideoIndex, load_index
from fastdual.loaders.loader import ClipLoader
from fastdual.loaders.plan import ClipSpec
from fastdual.loaders.pool.cpus import available_cpus


@dataclass(frozen=True)
class Way:
    """One way from a pack to clips on the device."""

    name: str
    pack: str
    decode: Requested
    on_gpu: bool  # the graph runs there; else workers augment, and the batch is copied
    augment: RequestedAugment = "auto"


WAYS = (
    Way("NVDEC, pack", "h264_128x176", "nvdec", True),
    Way("PyAV, pack, augmented on the CPU", "h264_128x176", "pyav", False),
    Way("PyAV, pack, augmented on the GPU", "h264_128x176", "pyav", True),
    Way("NVDEC, pack, views by Triton", "h264_128x176", "nvdec", True, "triton"),
    Way("PyAV, pack, views by Triton", "h264_128x176", "pyav", True, "triton"),
    Way("NVDEC, raw videos", "raw", "nvdec", True),
)


class Convolutions(threading.Thread):
    """Trains a network on one random batch, forward and backward, until it is stopped.

    Args:
        backbone: Its name.
        shape: Of the clips [B, 3, T, H, W].
        device: Where it is.
    """

    def __init__(self, backbone: str, shape: tuple[int, ...], device: torch.device) -> None:
        super().__init__(daemon=True)
        self.device = device
        network = create_backbone(backbone, clip_shape=shape[2:])
        self.network = network.to(device, memory_format=torch.channels_last_3d)
        clips = torch.randn(shape, device=device)
        self.clips = clips.contiguous(memory_format=torch.channels_last_3d)
        self.steps = 0
        self._stopping = threading.Event()

    def run(self) -> None:
        while not self._stopping.is_set():
            with torch.autocast(self.device.type, torch.bfloat16, self.device.type == "cuda"):
                output = self.network(self.clips)
            output.float().square().mean().backward()
            if self.device.type == "cuda":
                torch.cuda.current_stream(self.device).synchronize()
            self.steps += 1

    def stop(self) -> None:
        self._stopping.set()
        self.join()


class Work:
    """Batches of one way, without end.

    Args:
        way: How they are made.
        index: The pack.
        options: Of the command.
    """

    def __init__(self, way: Way, index: VideoIndex, options: argparse.Namespace) -> None:
        self.device = torch.device(options.device)
        self.loader = ClipLoader(
            index, ClipSpec(), batch_size=min(options.batch_size, len(index)),
            device=self.device if way.on_gpu else "cpu", decode=way.decode,
            dtype=torch.bfloat16 if self.device.type == "cuda" else torch.float32,
            augment=way.augment, num_workers=available_cpus(),
        )  # fmt: skip
        self._batches = self._endless()

    def _endless(self) -> Iterator[Any]:
        for _ in itertools.count():
            for batch in self.loader:
                yield batch.clips.to(self.device, non_blocking=True)

    def rate(self, seconds: float) -> float:
        """Return videos per second; the loader has begun before."""
        videos, clock = 0, time.perf_counter()
        while time.perf_counter() - clock < seconds:
            videos += len(next(self._batches))
        return videos / (time.perf_counter() - clock)


def steps_a_second(convolutions: Convolutions, seconds: float) -> float:
    """Return the rate of a loop that is running."""
    before, clock = convolutions.steps, time.perf_counter()
    time.sleep(seconds)
    return (convolutions.steps - before) / (time.perf_counter() - clock)


def measure(way: Way, options: argparse.Namespace) -> Row:
    """Return the rates of a way alone and beside convolutions, and those of the convolutions."""
    work = Work(way, load_index(options.data / f"{way.pack}.h5"), options)
    shape = (options.clips, 3, 8, 32, 32) if options.tiny else (options.clips, 3, 16, 112, 112)
    convolutions = Convolutions(
        "tiny" if options.tiny else "r2plus1d", shape, torch.device(options.device)
    )
    try:
        work.rate(options.seconds / 2)  # warm-up
        alone = work.rate(options.seconds)
        convolutions.start()
        work.rate(
            options.seconds / 2
        )  # what was ready before does not count, nor does a first step
        before, clock = convolutions.steps, time.perf_counter()
        beside = work.rate(options.seconds)
        steps_beside = (convolutions.steps - before) / (time.perf_counter() - clock)
        work.loader.close()
        steps_alone = steps_a_second(convolutions, options.seconds)
    finally:
        work.loader.close()
        if convolutions.is_alive():
            convolutions.stop()
    return {
        "status": "ok",
        "alone_videos_per_second": round(alone, 2),
        "beside_videos_per_second": round(beside, 2),
        "steps_alone_per_second": round(steps_alone, 3),
        "steps_beside_per_second": round(steps_beside, 3),
        "slowdown": round(steps_alone / steps_beside, 3) if steps_beside else "",
        "clips_a_step": options.clips,
        "decoded_by": str(getattr(work.loader, "decoded_by", "")),
    }


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of packs")
    parser.add_argument("--out", type=Path, required=True, help="results without extension")
    parser.add_argument("--ways", nargs="+", choices=[way.name for way in WAYS], metavar="NAME")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--clips", type=int, default=64, help="in a step of the network")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a tiny network")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Measure every way that has no row yet; one that cannot run says why."""
    options = parse(words)
    machine, table = describe_machine(torch.device(options.device)), Table(options.out, keep=True)
    for way in WAYS:
        if table.has(loader=way.name) or (options.ways and way.name not in options.ways):
            continue
        row: Row = {"loader": way.name}
        try:
            by_dali = way.on_gpu and (way.decode, way.augment) != ("pyav", "triton")
            if by_dali and not is_installed("nvidia.dali"):
                raise InputError("needs DALI")
            row |= measure(way, options)
        except (InputError, FailureError) as error:
            row["status"] = f"not run: {error}"
        table.add(row | machine)
        print(table.rows[-1], flush=True)


if __name__ == "__main__":
    main()
