"""The contestants of bench.train: each a Training whose steps are fastdual.training.loop's own."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.parts.train.case import Case
from fastdual.config import PretrainConfig
from fastdual.loaders.loader import ClipBatch
from fastdual.loaders.views.augment import IMAGENET_MEAN, IMAGENET_STD
from fastdual.model.dual import DualModel, create_model
from fastdual.training.execution import Execution, choose_execution
from fastdual.training.loop import StepOutput, Training, take_step
from fastdual.training.pretrain import Pretraining
from fastdual.training.start import create_training

PARTS = ("forward", "losses", "backward", "optimiser")
# Settings by name; the steps of `paper` and `eager` are those of STEPS, not create_training's.
_EAGER = {"loss.backend": "eager", "run.compile": "off", "model.channel_multiple": 1}
_PAPER = _EAGER | {"run.precision": "fp32"}
CONTESTANTS: dict[str, dict[str, Any]] = {"paper": _PAPER, "eager": _EAGER, "ours": {}}
LEVERS: dict[str, dict[str, Any]] = {
    "ours, fp32": {"run.precision": "fp32"},
    "ours, not compiled": {"run.compile": "off"},
    "ours, compiled": {"run.compile": "on"},
    "ours, max-autotune": {"run.compile": "max-autotune"},
    "ours, CUDA graphs": {"run.compile": "cuda-graphs"},
    "ours, eager losses": {"loss.backend": "eager"},
    "ours, not padded": {"model.channel_multiple": 1},
    "ours, padded to 16": {"model.channel_multiple": 16},
    "ours, recomputed": {"run.recompute_activations": "on"},
}
# Views that go through the network together, so that batch norm is over them.
_PAPER_GROUPS, _ONE_GROUP = (slice(0, 3), slice(3, 4)), (slice(0, 4),)


class _NoLoader:
    """Stands where a Training has its loader; batches come from elsewhere."""

    data_wait_seconds = 0.0

    def __len__(self) -> int:
        return 100


def _embed(model: DualModel, clips: Tensor, groups: Sequence[slice]) -> Iterator[Tensor]:
    """Yield the embeddings [B, V, D] of clips and [B, V, S, D'] of segments, group by group."""
    rows = [model(clips[:, views].flatten(0, 1)) for views in groups]
    for column in zip(*rows, strict=True):
        yield torch.cat([part.unflatten(0, (len(clips), -1)) for part in column], dim=1)


def paper_step(
    model: DualModel, objective: nn.Module, execution: Execution, batch: ClipBatch
) -> StepOutput:
    """Compute as the released code does: normalise frame by frame, three views, then the last."""
    pixels = batch.clips
    mean, std = (pixels.new_tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    clips = torch.stack([(frame - mean) / std for frame in pixels.unbind(3)], dim=3)
    embedded = _embed(model, clips, _PAPER_GROUPS)
    output: StepOutput = objective(*embedded, batch.permutation, batch.video_ids)
    return output


def eager_step(
    model: DualModel, objective: nn.Module, execution: Execution, batch: ClipBatch
) -> StepOutput:
    """Compute all views in one forward: nothing compiled or fused, torch's own memory layout."""
    clips = batch.clips
    with torch.autocast(clips.device.type, torch.bfloat16, execution.bf16):
        embedded = model(clips.flatten(0, 1))
    clip, segments = (part.unflatten(0, clips.shape[:2]) for part in embedded)
    output: StepOutput = objective(clip, segments, batch.permutation, batch.video_ids)
    return output


STEPS: dict[str, Callable[..., StepOutput]] = {"paper": paper_step, "eager": eager_step}


def _create(config: PretrainConfig, execution: Execution, *, contiguous: bool) -> Training:
    torch.manual_seed(0)
    model, loader = create_model(config), _NoLoader()
    training = create_training(Pretraining(config), model, loader, execution)  # type: ignore[arg-type]
    if contiguous:
        model.to(memory_format=torch.contiguous_format)
    return training


class Contestant:
    """One way to train. All contestants start from the same weights."""

    def __init__(self, name: str, case: Case) -> None:
        self.name, self.case = name, case
        self.is_paper = name == "paper"
        self.config = case.config(**(CONTESTANTS | LEVERS)[name])
        self.execution = choose_execution(self.config.run)
        self.dtype = torch.bfloat16 if self.execution.bf16 else torch.float32
        self.training = _create(self.config, self.execution, contiguous=name in STEPS)
        if name in STEPS:
            model, objective = self.training.model, self.training.objective
            self.training.compute = partial(STEPS[name], model, objective, self.execution)
        self.batches = [self._given(case.batch(seed, self.dtype)) for seed in (1, 2)]
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

    def step(self, batch: ClipBatch | None = None) -> Tensor:
        """Take one step; return its loss.

        Args:
            batch: What the loader yields; by default random clips that are on the device already.
        """
        own = self.batches[self._turn % len(self.batches)]
        with tf32(True) if self.is_paper else nullcontext():
            output = take_step(self.training, own if batch is None else self._given(batch))
        self._turn += 1
        self.training.step += 1
        if self.is_paper:  # its meters read the metrics in every step
            for value in output.metrics.values():
                value.item()
        return output.loss.detach()

    def timed_step(self) -> list[float]:
        """Take one step; return the milliseconds of each of PARTS."""
        self._marks = []
        self._mark()
        self.step()
        self._mark()
        pairs = list(zip(self._marks, self._marks[1:], strict=False))
        if self.case.device.type == "cuda":
            self._marks[-1].synchronize()
            return [before.elapsed_time(after) for before, after in pairs]
        return [1e3 * float(after - before) for before, after in pairs]

    def _mark(self) -> None:
        if self.case.device.type != "cuda":
            self._marks.append(time.perf_counter())
            return
        event: Any = torch.cuda.Event(enable_timing=True)
        event.record()
        self._marks.append(event)

    def _given(self, batch: ClipBatch) -> ClipBatch:
        """Return a batch as this contestant's own loader would yield it.

        `paper` and `eager` take contiguous clips, and `paper` normalises them itself.
        """
        if self.name not in STEPS:
            return batch
        clips = batch.clips
        if self.is_paper:
            mean, std = (
                clips.new_tensor(v).view(3, 1, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD)
            )
            clips = clips * std + mean
        return replace(batch, clips=clips.contiguous())


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow tf32 in products and convolutions, as torch 1.8 did by default, or forbid it in both.

    Torch forbids it in products and allows it in cuDNN's convolutions unless told otherwise.
    """
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = allowed
    try:
        yield
    finally:
        for backend, was_allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = was_allowed


def reference_losses(contestant: Contestant, steps: int) -> list[float]:
    """Return the losses that a contestant's first steps have in plain fp32, without tf32."""
    case, groups = contestant.case, _PAPER_GROUPS if contestant.is_paper else _ONE_GROUP
    config = case.config(**_PAPER)
    training = _create(config, choose_execution(config.run), contiguous=True)

    def compute(batch: ClipBatch) -> StepOutput:
        embedded = _embed(training.model, batch.clips, groups)
        output: StepOutput = training.objective(*embedded, batch.permutation, batch.video_ids)
        return output

    training.compute = compute
    losses = []
    for number in range(steps):
        # Clips are rounded as the contestant's are, so that their rounding is not its error.
        batch = case.batch((1, 2)[number % 2], contestant.dtype)
        wide = replace(batch, clips=batch.clips.float())
        with tf32(False):
            losses.append(float(take_step(training, wide).loss.detach()))
        training.step += 1
    return losses
