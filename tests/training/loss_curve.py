"""200 training steps with the eager losses, with the kernels' beside them, and with the kernels'.

`python -m tests.training.loss_curve FILE` under TRITON_INTERPRET=1 trains and stores what it saw.
"""

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from fastdual.config import resolve
from fastdual.config.recipe import read_recipe
from fastdual.distributed.world import World
from fastdual.loaders.loader import ClipBatch, ClipLoader
from fastdual.model.dual import create_model
from fastdual.run.folder import RunFolder
from fastdual.training.execution import choose_execution
from fastdual.training.loop import StepOutput, take_step
from fastdual.training.objective import SimCLRObjective
from fastdual.training.pretrain import Pretraining
from fastdual.training.start import create_loader, create_training
from tests.evaluate.small import small_index

STEPS = 200
SETTINGS = (
    "data.batch_size=8",
    "data.num_workers=1",
    "clip.crop_size=32",
    "clip.resize_height=36",
    "clip.resize_width=48",
    "schedule.epochs=100",
    "loss.clip_temperature=0.07",
    "loss.coherence_temperature=0.07",
    # At the recipe's 1e-3 any rounding is 11 % of the loss after 200 steps, at this 1 %.
    "optimiser.learning_rate=2e-4",
    "run.device=cpu",
)


class SideBySide(nn.Module):
    """The eager losses, and how far the kernels' loss and gradients are from theirs."""

    def __init__(self, eager: SimCLRObjective, fused: SimCLRObjective) -> None:
        super().__init__()
        self.eager, self.fused = eager, fused
        self.errors: list[float] = []

    def forward(self, clip: Tensor, segments: Tensor, *rest: Tensor) -> StepOutput:
        """As the eager losses."""
        ours, theirs = (
            _loss_and_gradients(m, clip, segments, *rest) for m in (self.fused, self.eager)
        )
        # Relative to the largest number of each.
        scales = [tensor.abs().max() for tensor in theirs]
        pairs = zip(ours, theirs, scales, strict=True)
        self.errors.append(max(float((a - b).abs().max() / scale) for a, b, scale in pairs))
        output: StepOutput = self.eager(clip, segments, *rest)
        return output


def _loss_and_gradients(
    objective: nn.Module, clip: Tensor, segments: Tensor, *rest: Tensor
) -> list[Tensor]:
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (clip, segments)]
    loss = objective(*leaves, *rest).loss
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def _endless(loader: ClipLoader) -> Iterator[ClipBatch]:
    while True:
        yield from loader


def train(backend: str, *, beside: bool) -> tuple[list[float], list[float]]:
    """Losses of a run from the same start, and the errors of the kernels beside it."""
    settings = (*SETTINGS, f"loss.backend={backend}")
    config = resolve([read_recipe("tiny")], settings).config
    execution = choose_execution(config.run)
    torch.manual_seed(0)
    with TemporaryDirectory() as folder:
        run = RunFolder(Path(folder))
        loader = create_loader(small_index(), "train", config, execution, World(), run)
        with closing(loader):
            training = create_training(Pretraining(config), create_model(config), loader, execution)
            objective: Any = training.objective
            if beside:
                fused = resolve([], ("loss.backend=fused",)).config.loss
                objective = SideBySide(objective, SimCLRObjective(fused))
                training.compute.objective = objective  # type: ignore[attr-defined]
            losses = []
            for training.step, batch in zip(range(STEPS), _endless(loader), strict=False):
                losses.append(float(take_step(training, batch).loss.detach()))
    return losses, objective.errors if beside else []


def main(path: Path) -> None:
    """Train twice and store it."""
    torch.set_num_threads(1)
    eager, errors = train("eager", beside=True)
    fused, _ = train("fused", beside=False)
    torch.save({"eager": eager, "fused": fused, "errors": errors}, path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
