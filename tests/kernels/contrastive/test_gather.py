"""W real gloo processes against one process with the whole batch."""

import json
import sys
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor
from torch import distributed as dist
from torch.nn.functional import normalize

from fastdual.kernels import reference
from fastdual.kernels.contrastive import contrastive_loss_with_metrics
from tests.gloo import gloo_process
from tests.numerics import LargestTensor

ROWS, DIM = 5, 12  # rows of one process

CASES = {
    "nt-xent": {"symmetric": True, "groups": True},
    "clip": {"symmetric": False, "groups": False},
    "supcon": {"symmetric": True, "groups": True, "positives": "mean", "normalize": True},
    "row-without-positive": {"symmetric": False, "groups": False, "lonely": True},
    "sum": {"symmetric": False, "groups": True, "reduction": "sum"},
    "none": {"symmetric": False, "groups": True, "reduction": "none", "normalize": True},
}


def make_batch(case: dict, num_processes: int) -> dict[str, Tensor]:
    """The whole batch, the same on every process."""
    generator = torch.Generator().manual_seed(3)
    total = ROWS * num_processes
    batch = {
        "query": normalize(torch.randn(total, DIM, generator=generator), dim=1),
        "key": normalize(torch.randn(total, DIM, generator=generator), dim=1),
        # Positives lie on other processes as well as on the row's own.
        "ids": torch.randperm(total, generator=generator) % (total // 2),
        "groups": torch.arange(total),
    }
    if case.get("lonely"):
        # Rows 0 and 1 alone have no positive, so the first process has fewer that count.
        batch["query_ids"] = batch["ids"].clone()
        batch["query_ids"][:2] = 99
    return batch


def evaluate(
    loss_function, batch: dict[str, Tensor], case: dict, rows: slice, scale: float, **options
) -> list[Tensor]:
    """Loss, hits, and the gradients of query, key and temperature for one part of the batch."""
    query = batch["query"][rows].clone().requires_grad_()
    key = query if case["symmetric"] else batch["key"][rows].clone().requires_grad_()
    temperature = torch.tensor(0.2, requires_grad=True)
    groups = batch["groups"][rows] if case["groups"] else None
    result = loss_function(
        query,
        key,
        batch.get("query_ids", batch["ids"])[rows],
        batch["ids"][rows],
        query_groups=groups,
        key_groups=groups,
        temperature=temperature,
        positives=case.get("positives", "sum"),
        reduction=case.get("reduction", "mean"),
        normalize=case.get("normalize", False),
        **options,
    )
    weight = torch.linspace(1, 2, len(batch["query"]))[rows]
    loss = (result.loss * weight if result.loss.ndim else result.loss).sum() * scale
    loss.backward()
    hits = torch.stack([result.top1, result.top5, result.valid])
    return [result.loss.detach(), hits, query.grad, key.grad, temperature.grad]


def compare_with_one_process(rank: int, num_processes: int, gather: str) -> None:
    for name, case in CASES.items():
        batch = make_batch(case, num_processes)
        rows = slice(rank * ROWS, (rank + 1) * ROWS)
        # Backward of the mean over processes, as DistributedDataParallel has it; sums are summed.
        scale = 1 / num_processes if case.get("reduction", "mean") == "mean" else 1
        ours = evaluate(contrastive_loss_with_metrics, batch, case, rows, scale, gather=gather)
        whole = evaluate(reference.contrastive_loss_with_metrics, batch, case, slice(None), 1)
        loss, temperature_grad = ours[0].clone(), ours[4].clone()
        if loss.ndim == 0:
            dist.all_reduce(loss)
            loss *= scale
        dist.all_reduce(temperature_grad)
        expected = [whole[0] if loss.ndim == 0 else whole[0][rows], whole[1][:, rows]]
        expected += [whole[2][rows], whole[3][rows], whole[4]]
        names = "loss", "hits", "query", "key", "temperature"
        for what, found, truth in zip(
            names, [loss, *ours[1:4], temperature_grad], expected, strict=True
        ):
            torch.testing.assert_close(
                found, truth, rtol=1e-6, atol=1e-6, msg=f"{name}: {what} differs"
            )


def refuse_uneven_keys(rank: int, gather: str) -> None:
    ids = torch.arange(3 + rank)
    rows = torch.randn(len(ids), 8)
    with pytest.raises(ValueError, match=r"key has shapes \[\[3, 8\], \[4, 8\].*one shape"):
        contrastive_loss_with_metrics(rows, rows, ids, ids, temperature=0.1, gather=gather)


def gathering_compiles_as_one_graph(rank: int) -> None:
    """Of "all"; the messages of a ring are none of those that torch compiles."""
    compiled = torch.compile(contrastive_loss_with_metrics, fullgraph=True, backend="aot_eager")
    batch, rows = make_batch(CASES["clip"], 2), slice(rank * ROWS, (rank + 1) * ROWS)
    outcomes = [
        evaluate(function, batch, CASES["clip"], rows, 1, gather="all")
        for function in (compiled, contrastive_loss_with_metrics)
    ]
    torch.testing.assert_close(*outcomes)


def ring_holds_one_block_at_a_time(num_processes: int) -> None:
    """Forward and backward make no tensor larger than one process's candidates."""
    query, key = (torch.randn(rows, 32, requires_grad=True) for rows in (2, 64))
    query_ids, key_ids = torch.arange(2), torch.arange(64)
    largest = {}
    for gather in ("all", "ring"):
        with LargestTensor() as seen:
            contrastive_loss_with_metrics(
                query, key, query_ids, key_ids, temperature=0.1, gather=gather
            ).loss.backward()
        largest[gather] = seen.numel
    assert largest == {"all": num_processes * 64 * 32, "ring": 64 * 32}


def train_data_parallel(rank: int, num_processes: int) -> None:
    """Gradients that DistributedDataParallel averages are those of one process."""
    torch.manual_seed(1)
    models = [torch.nn.Linear(6, 8, bias=False) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    views = torch.randn(num_processes * 4, 6)
    ids = torch.arange(num_processes * 4) // 2
    groups = torch.arange(num_processes * 4)

    def loss_of(model, rows: slice, gather: str | None) -> Tensor:
        z, i, g = model(views[rows]), ids[rows], groups[rows]
        return contrastive_loss_with_metrics(
            z, z, i, i, query_groups=g, key_groups=g, temperature=0.5, normalize=True, gather=gather
        ).loss

    parallel = torch.nn.parallel.DistributedDataParallel(models[0])
    loss_of(parallel, slice(rank * 4, rank * 4 + 4), "all").backward()
    loss_of(models[1], slice(None), None).backward()
    torch.testing.assert_close(models[0].weight.grad, models[1].weight.grad, rtol=1e-6, atol=1e-6)


def run_process(rank: int, num_processes: int, folder: Path) -> None:
    with gloo_process(rank, num_processes, folder):
        for gather in ("all", "ring"):
            compare_with_one_process(rank, num_processes, gather)
            refuse_uneven_keys(rank, gather)
        if num_processes == 2:
            gathering_compiles_as_one_graph(rank)
        ring_holds_one_block_at_a_time(num_processes)
        train_data_parallel(rank, num_processes)
        (folder / f"{rank}.json").write_text(json.dumps({"triton": "triton" in sys.modules}))


@pytest.mark.parametrize("num_processes", [2, 3])
def test_processes_together_equal_one_process(
    num_processes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Streams: interpreted kernels are compared with the streaming path elsewhere, and are slow.
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    mp.spawn(run_process, (num_processes, tmp_path), nprocs=num_processes)
    assert len(list(tmp_path.glob("*.json"))) == num_processes


@pytest.mark.parametrize("gather", ["all", "ring", None])
def test_one_process_needs_no_process_group(gather) -> None:
    ids = torch.arange(4)
    rows = torch.randn(4, 8)
    loss = contrastive_loss_with_metrics(
        rows, rows * 2, ids, ids, temperature=0.1, gather=gather
    ).loss
    truth = reference.contrastive_loss_with_metrics(rows, rows * 2, ids, ids, temperature=0.1).loss
    torch.testing.assert_close(loss, truth)


def test_gather_must_be_known() -> None:
    ids = torch.arange(4)
    rows = torch.randn(4, 8)
    with pytest.raises(ValueError, match="gather is 'some', must be one of 'all', 'ring'"):
        contrastive_loss_with_metrics(rows, rows, ids, ids, temperature=0.1, gather="some")
