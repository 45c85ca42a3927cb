"""The contestants of bench.train: each a Training whose steps are fastdual.training.loop's own."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.parts.common import Row, silent_stderr
from fastdual.backbones import create_backbone
from fastdual.config.sections import PretrainConfig, resolve
from fastdual.distributed.team import World
from fastdual.loaders.index.open import VideoIndex
from fastdual.loaders.loader import ClipBatch
from fastdual.loaders.plan import draw_plan
from fastdual.model.dual import DualModel, create_model
from fastdual.run.folder import RunFolder
from fastdual.training.execution import Execution, choose_execution
from fastdual.training.loop import StepOutput, Training, take_step
from fastdual.training.pretrain import Pretraining
from fastdual.training.start import create_loader, create_training

PARTS = ("forward", "losses", "backward", "optimiser")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Steps of one contestant on the real loader; the first few fill its queue.
REAL_STEPS, REAL_WARMUP = 20, 4

# Settings by name; `paper` and `eager` compute as written below, not as create_training has it.
CONTESTANTS: dict[str, dict[str, Any]] = {"paper": {}, "eager": {}, "ours": {}}
LEVERS: dict[str, dict[str, Any]] = {
    "ours, not compiled": {"run.compile": "off"},
    "ours, compiled": {"run.compile": "on"},
    "ours, max-autotune": {"run.compile": "max-autotune"},
    "ours, CUDA graphs": {"run.compile": "cuda-graphs"},
    "ours, eager losses": {"loss.backend": "eager"},
    "ours, padded to 8": {"model.channel_multiple": 8},
    "ours, padded to 16": {"model.channel_multiple": 16},
    "ours, recomputed": {"run.recompute_activations": "on"},
}
# By name of kernel or operator; the first that fits.
KINDS = {
    "convolution": r"conv|xmma|wgrad|dgrad|fprop|implicit|cudnn.*(nhwc|ndhwc)",
    "losses": r"contrastive|shuffle_rank",
    "norm": r"batch_norm|bn_|native_norm",
    "product": r"gemm|addmm|::mm|cutlass",
    "optimiser": r"multi_tensor|foreach|fused_sgd|fused_adam",
    "copy": r"memcpy|memset|copy|clone|cat\b|contiguous",
}


@dataclass(frozen=True)
class Size:
    """Videos in a batch; frames and pixels of a clip."""

    batch: int
    frames: int
    crop: int


@dataclass(frozen=True)
class Bench:
    """What all contestants share."""

    backbone: str
    size: Size
    device: torch.device

    def config(self, **settings: Any) -> PretrainConfig:
        values = {
            "model.backbone": self.backbone,
            "data.batch_size": self.size.batch,
            "clip.frames_per_clip": self.size.frames,
            "clip.crop_size": self.size.crop,
            "clip.resize_height": self.size.crop * 8 // 7,
            "clip.resize_width": self.size.crop * 3 // 2,
            "run.device": str(self.device),
            # Small, so that a few steps do not magnify the rounding of the first beyond use.
            "optimiser.learning_rate": 1e-5,
            **settings,
        }
        return resolve([], [f"{key}={value}" for key, value in values.items()]).config

    def describe(self) -> Row:
        return {
            "backbone": self.backbone,
            "videos": self.size.batch,
            "clip": f"3x{self.size.frames}x{self.size.crop}x{self.size.crop}",
        }

    def batch(self, seed: int, dtype: torch.dtype) -> ClipBatch:
        """Random clips on the device, laid out as the loader's are."""
        size, config = self.size, self.config()
        videos = np.arange(size.batch)
        plan = draw_plan(config.clip, seed=seed, epoch=0, videos=videos, num_frames=videos * 0 + 99)
        generator = torch.Generator().manual_seed(seed)
        shape = (size.batch, 3, size.frames, size.crop, size.crop, 3)
        views = torch.randn(shape, generator=generator)
        assert plan.permutation is not None
        permutation = torch.from_numpy(plan.permutation)
        length = size.frames // permutation.shape[1]
        # The shuffled view: segment i is segment permutation[i] of view 2.
        segments = views[:, 2].unflatten(1, (-1, length))
        moved = torch.stack([s[p] for s, p in zip(segments, permutation, strict=True)])
        clips = torch.cat([views, moved.flatten(1, 2)[:, None]], dim=1)
        ids = torch.from_numpy(videos).to(self.device)
        return ClipBatch(
            clips.to(self.device, dtype).permute(0, 1, 5, 2, 3, 4),
            permutation.to(self.device),
            ids,
            torch.full_like(ids, -1),
            plan,
        )


class _NoLoader:
    """Stands where a Training has its loader; batches come from elsewhere."""

    data_wait_seconds = 0.0

    def __len__(self) -> int:
        return 100


class PaperStep:
    """The released code's way: normalise frame by frame, three views, then the shuffled one."""

    def __init__(self, model: DualModel, objective: nn.Module) -> None:
        self.model, self.objective = model, objective

    def __call__(self, batch: ClipBatch) -> StepOutput:
        clips = self._normalise(batch.clips)
        first, last = clips[:, :3], clips[:, 3:]
        parts = []
        for views in (first, last):
            clip, segments = self.model(views.flatten(0, 1))
            shape = views.shape[:2]
            parts.append((clip.unflatten(0, shape), segments.unflatten(0, shape)))
        clip, segments = (torch.cat(columns, dim=1) for columns in zip(*parts, strict=True))
        output: StepOutput = self.objective(clip, segments, batch.permutation, batch.video_ids)
        return output

    def _normalise(self, pixels: Tensor) -> Tensor:
        mean, std = (pixels.new_tensor(v)[:, None, None] for v in (MEAN, STD))
        frames = [(frame - mean) / std for frame in pixels.unbind(3)]
        return torch.stack(frames, dim=3)


class EagerStep:
    """All views in one forward, nothing compiled, nothing fused, memory as torch has it."""

    def __init__(self, model: DualModel, objective: nn.Module, execution: Execution) -> None:
        self.model, self.objective, self.execution = model, objective, execution

    def __call__(self, batch: ClipBatch) -> StepOutput:
        clips = batch.clips
        with torch.autocast(clips.device.type, torch.bfloat16, self.execution.bf16):
            clip, segments = self.model(clips.flatten(0, 1))
        shape = clips.shape[:2]
        output: StepOutput = self.objective(
            clip.unflatten(0, shape),
            segments.unflatten(0, shape),
            batch.permutation,
            batch.video_ids,
        )
        return output


class Contestant:
    """One way to train, from the same weights as all."""

    def __init__(self, name: str, bench: Bench) -> None:
        self.name, self.bench = name, bench
        self.is_paper = name == "paper"
        settings = (CONTESTANTS | LEVERS)[name]
        if name in ("paper", "eager"):
            settings = {"loss.backend": "eager", "run.compile": "off"}
        if self.is_paper:
            settings["run.precision"] = "fp32"
        self.config = bench.config(**settings)
        self.execution = choose_execution(self.config.run)
        self.dtype = torch.bfloat16 if self.execution.bf16 else torch.float32
        self.training = self._create()
        self.batches = [self._given(bench.batch(seed, self.dtype)) for seed in (1, 2)]
        self._turn = 0
        self._marks: list[Any] = []
        self.training.objective.register_forward_pre_hook(lambda *_: self._mark())
        self.training.optimiser.register_step_pre_hook(lambda *_: self._mark())
        compute = self.training.compute

        def marked(batch: ClipBatch) -> StepOutput:
            output = compute(batch)
            self._mark()
            return output

        self.training.compute = marked

    def step(self) -> float | None:
        """One step; the paper's way reads the loss and the metrics, as its meters do."""
        with _tf32(self.is_paper):
            output = take_step(self.training, self.batches[self._turn % len(self.batches)])
        self._turn += 1
        self.training.step += 1
        if not self.is_paper:
            return None
        return [value.item() for value in output.metrics.values()][0]

    def timed_step(self) -> list[float]:
        """Milliseconds of each of PARTS."""
        self._marks = []
        self._mark()
        self.step()
        self._mark()
        if self.bench.device.type == "cuda":
            self._marks[-1].synchronize()
            pairs = zip(self._marks, self._marks[1:], strict=False)
            return [before.elapsed_time(after) for before, after in pairs]
        return [1e3 * float(b - a) for a, b in zip(self._marks, self._marks[1:], strict=False)]

    def _mark(self) -> None:
        if self.bench.device.type != "cuda":
            self._marks.append(time.perf_counter())
            return
        event: Any = torch.cuda.Event(enable_timing=True)
        event.record()
        self._marks.append(event)

    def _create(self) -> Training:
        torch.manual_seed(0)
        model = create_model(self.config)
        loader: Any = _NoLoader()
        if self.name not in ("paper", "eager"):
            return create_training(Pretraining(self.config), model, loader, self.execution)
        training = create_training(Pretraining(self.config), model, loader, self.execution)
        model.to(memory_format=torch.contiguous_format)
        training.compute = (
            PaperStep(model, training.objective)
            if self.is_paper
            else EagerStep(model, training.objective, self.execution)
        )
        return training

    def _given(self, batch: ClipBatch) -> ClipBatch:
        """A batch as this contestant's loader would hand it over.

        Both rivals take contiguous clips, and the paper's normalises them itself.
        """
        if self.name not in ("paper", "eager"):
            return batch
        clips = batch.clips
        if self.is_paper:
            mean, std = (clips.new_tensor(v).view(3, 1, 1, 1) for v in (MEAN, STD))
            clips = clips * std + mean
        return replace(batch, clips=clips.contiguous())


class _tf32:  # noqa: N801, a context like torch's own
    """tf32 products and convolutions within, as torch 1.8 had them by default."""

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted

    def __enter__(self) -> None:
        self._before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        if self._wanted:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True

    def __exit__(self, *_: object) -> None:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = self._before


def losses_of(contestant: Contestant, steps: int) -> list[float]:
    """Losses of the first steps."""
    training, losses = contestant.training, []
    for number in range(steps):
        batch = contestant.batches[number % len(contestant.batches)]
        with _tf32(contestant.is_paper):
            losses.append(float(take_step(training, batch).loss.detach()))
        training.step += 1
    return losses


def reference_losses(contestant: Contestant, steps: int) -> list[float]:
    """The same steps in plain fp32, without tf32: batch norm over the views that go together."""
    bench = contestant.bench
    together = [slice(0, 3), slice(3, 4)] if contestant.is_paper else [slice(0, 4)]
    config = bench.config(
        **{"run.precision": "fp32", "run.compile": "off", "loss.backend": "eager"}
    )
    execution = choose_execution(config.run)
    torch.manual_seed(0)
    model = create_model(config)
    loader: Any = _NoLoader()
    training = create_training(Pretraining(config), model, loader, execution)
    model.to(memory_format=torch.contiguous_format)

    def compute(batch: ClipBatch) -> StepOutput:
        rows = [model(batch.clips[:, views].flatten(0, 1)) for views in together]
        columns = zip(*rows, strict=True)
        clip, segments = (
            torch.cat([part.unflatten(0, (bench.size.batch, -1)) for part in column], dim=1)
            for column in columns
        )
        output: StepOutput = training.objective(clip, segments, batch.permutation, batch.video_ids)
        return output

    training.compute = compute
    losses = []
    for number in range(steps):
        # bf16 clips as the contestant has them, so that their rounding is nobody's fault.
        batch = bench.batch((1, 2)[number % 2], contestant.dtype)
        wide = replace(batch, clips=batch.clips.float())
        losses.append(float(take_step(training, wide).loss.detach()))
        training.step += 1
    return losses


def training_gflop(backbone: str, size: Size) -> float:
    """GFLOP of a training step for one clip: forward, and twice as much backward."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = create_backbone(backbone).eval()  # batch norm of one value has no statistics
        network(torch.empty(1, 3, size.frames, size.crop, size.crop))
    return 3 * float(counter.get_total_flops()) / 1e9


def kernel_times(contestant: Contestant) -> dict[str, float]:
    """Milliseconds of kernels (on a CPU, of operators) in one step, by kind."""
    on_cuda = contestant.bench.device.type == "cuda"
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
    """What a kernel or operator is for, by its name."""
    for kind, pattern in KINDS.items():
        if re.search(pattern, kernel.lower()):
            return kind
    return "other"


def real_rates(contestant: Contestant, data: Path) -> Row:
    """Clips a second from the loader, and the share of time in which the step waited for it.

    The rivals' layout is made of ours in the step, a copy that counts against them.
    """
    index = VideoIndex.load(data)
    with TemporaryDirectory() as aside:
        folder = RunFolder(Path(aside))
        loader = create_loader(
            index, None, contestant.config, contestant.execution, World(), folder
        )
        with closing(loader):
            batches = _endless(loader)
            for batch in islice(batches, REAL_WARMUP):
                _take(contestant, batch)
            _wait(contestant.bench.device)
            started, waited = time.perf_counter(), loader.data_wait_seconds
            for batch in islice(batches, REAL_STEPS):
                _take(contestant, batch)
            _wait(contestant.bench.device)
            seconds = time.perf_counter() - started
            waited = loader.data_wait_seconds - waited
    clips = 4 * contestant.bench.size.batch * REAL_STEPS
    return {
        "real_clips_per_second": round(clips / seconds, 2),
        "real_data_ms": round(1e3 * waited / REAL_STEPS, 2),
        "real_data_wait_share": round(waited / seconds, 4),
    }


def _take(contestant: Contestant, batch: ClipBatch) -> None:
    contestant.batches = [contestant._given(batch)]
    contestant.step()


def _endless(loader: Any) -> Iterator[ClipBatch]:
    while True:
        yield from loader


def _wait(device: torch.device) -> None:
    wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
