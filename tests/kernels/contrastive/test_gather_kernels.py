"""Two gloo processes that run the interpreted kernels against one process with the whole batch."""

from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed as dist

from fastdual.kernels import reference
from fastdual.kernels.contrastive import contrastive_loss_with_metrics
from tests.gloo import gloo_process
from tests.kernels.contrastive.test_gather import CASES, ROWS, evaluate, make_batch
from tests.kernels.launches import triton_launches
from tests.numerics import poisoned_empty

NUM_PROCESSES = 2
NAMES = "loss", "hits", "query", "key", "temperature"


def compare_with_one_process(rank: int, name: str, gather: str) -> None:
    """Every part of the outcome, to 1e-5 of its largest entry, and that kernels computed it."""
    case = CASES[name]
    batch = make_batch(case, NUM_PROCESSES)
    rows = slice(rank * ROWS, (rank + 1) * ROWS)
    is_mean = case.get("reduction", "mean") == "mean"
    # Backward of the mean over processes, as DistributedDataParallel has it; sums are summed.
    scale = 1 / NUM_PROCESSES if is_mean else 1
    with triton_launches() as launches, poisoned_empty():
        ours = evaluate(contrastive_loss_with_metrics, batch, case, rows, scale, gather=gather)
    # Forward, merge and backward at least: nothing has fallen back to streaming.
    assert len(launches) >= 3, launches
    whole = evaluate(reference.contrastive_loss_with_metrics, batch, case, slice(None), 1)
    loss, temperature_grad = ours[0].clone(), ours[4].clone()
    if loss.ndim == 0:
        dist.all_reduce(loss)
        loss *= scale
    dist.all_reduce(temperature_grad)
    expected = [whole[0] if loss.ndim == 0 else whole[0][rows], whole[1][:, rows]]
    expected += [whole[2][rows], whole[3][rows], whole[4]]
    for what, found, truth in zip(
        NAMES, [loss, *ours[1:4], temperature_grad], expected, strict=True
    ):
        # Entries that cancel to nearly 0 are held to the size of the others.
        atol = 1e-5 * truth.abs().max().item() if truth.is_floating_point() else 0
        torch.testing.assert_close(
            found, truth, rtol=0, atol=atol, msg=lambda text, what=what: f"{name}: {what}: {text}"
        )


def run_process(rank: int, folder: Path, gather: str) -> None:
    with gloo_process(rank, NUM_PROCESSES, folder):
        # Two-sided without groups, ids with several positives, and all three reductions.
        for name in CASES:
            compare_with_one_process(rank, name, gather)
        (folder / f"{rank}.done").touch()


@pytest.mark.parametrize("gather", ["all", "ring"])
def test_kernels_of_two_processes_equal_one_process(
    gather: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Triton decides at import whether it interprets, so the children alone may import it.
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    mp.spawn(run_process, (tmp_path, gather), nprocs=NUM_PROCESSES)
    assert len(list(tmp_path.glob("*.done"))) == NUM_PROCESSES
