"""The loss modules over two processes, on every backend that gathers."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch import multiprocessing as mp
from torch.nn import functional as F

from fastdual.losses import (
    ClipLoss,
    DualVarianceLoss,
    NTXentLoss,
    SupConLoss,
    TemporalCoherenceLoss,
)
from tests.embeddings import dual_inputs
from tests.gloo import gloo_process

WORLD = 2
VARIANTS = [("auto", "all"), ("auto", "ring"), ("eager", "all"), ("eager", "ring")]


def gathered_worker(rank: int, folder: Path) -> None:
    """Its half of the batch; losses and gradients averaged as DistributedDataParallel does."""
    with gloo_process(rank, WORLD, folder):
        outcomes = []
        for backend, gather in VARIANTS:
            # A linear encoder's weight takes the place of a model: it is what DDP would average.
            weight = torch.eye(12).requires_grad_()
            inputs = [x.chunk(WORLD)[rank] for x in gathered_batch()]
            losses = gathered_losses(weight, *inputs, backend=backend, gather=gather)
            (grad,) = torch.autograd.grad(losses.sum(), weight)
            summed = torch.cat([losses.detach(), grad.flatten()])
            torch.distributed.all_reduce(summed)
            outcomes.append(summed / WORLD)
        uneven = [x[: 4 - rank] for x in gathered_batch()]
        for backend, gather in VARIANTS:
            with pytest.raises(ValueError, match=r"key has shapes .* on the processes, must be"):
                gathered_losses(weight, *uneven, backend=backend, gather=gather)
        if rank == 0:
            torch.save(outcomes, folder / "results.pt")


def gathered_batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    clip, parts, permutation, ids = dual_inputs(8, 2, dtype=torch.float32)
    ids[6] = ids[1]  # one video on both processes
    return clip, parts, permutation, ids


def gathered_losses(
    weight: Tensor,
    clip: Tensor,
    parts: Tensor,
    permutation: Tensor,
    ids: Tensor,
    *,
    backend: str,
    gather: str | None,
) -> Tensor:
    options = {"backend": backend, "gather": gather}
    clip, parts = F.normalize(clip @ weight, dim=-1), F.normalize(parts @ weight[:8, :8], dim=-1)
    return torch.stack(
        [
            DualVarianceLoss(**options)(clip, parts, permutation, ids).total,
            NTXentLoss(**options)(clip[:, 0], clip[:, 1]),
            SupConLoss(**options)(clip[:, 0], ids % 3),
            ClipLoss(**options)(clip[:, 0], clip[:, 1], 8.0),
            TemporalCoherenceLoss(form="segments", **options)(parts[:, 0], parts[:, 1], ids),
        ]
    )


def test_two_processes_give_the_loss_and_gradient_of_one(tmp_path: Path) -> None:
    mp.spawn(gathered_worker, (tmp_path,), nprocs=WORLD)
    weight = torch.eye(12).requires_grad_()
    losses = gathered_losses(weight, *gathered_batch(), backend="eager", gather=None)
    (grad,) = torch.autograd.grad(losses.sum(), weight)
    expected = torch.cat([losses.detach(), grad.flatten()])
    for variant, outcome in zip(VARIANTS, torch.load(tmp_path / "results.pt"), strict=True):
        # 1e-6 of the largest entry: float32 sums in another order.
        error = (outcome - expected).abs().max() / expected.abs().max()
        assert error < 1e-6, variant
