"""Synchronised batch norm: W real gloo processes against one with the whole batch."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch import distributed as dist

from fastdual.backbones import create_backbone
from fastdual.errors import InputError
from fastdual.model.batch_norm import SyncedBatchNorm3d, synchronise_batch_norm
from tests.gloo import gloo_process

# Videos of each process: equal parts, and parts that differ.
SIZES = {2: ([3, 3], [1, 4]), 4: ([2, 2, 2, 2], [1, 3, 2, 5])}


def make_norm(**options: Any) -> nn.BatchNorm3d:
    torch.manual_seed(1)
    norm = nn.BatchNorm3d(5, **options)
    if norm.affine:
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.normal_(norm.bias)
    return norm


def run(norm: nn.Module, rows: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Output, gradients and statistics after a batch whose loss is not the mean of anything."""
    rows = rows.clone().requires_grad_()
    output = norm(rows)
    (output * weight).sum().backward()
    assert rows.grad is not None
    parameters = {f"grad {name}": p.grad for name, p in norm.named_parameters()}
    return {
        "output": output.detach(),
        "input": rows.grad,
        **parameters,
        **dict(norm.named_buffers()),
    }


def assert_equal_to_one_process(
    synced: nn.Module, plain: nn.Module, sizes: list[int], rank: int, *, offset: float = 2.0
) -> None:
    generator = torch.Generator().manual_seed(3)
    whole, weight = torch.randn(2, sum(sizes), 5, 2, 3, 3, generator=generator)
    whole = whole + offset * torch.arange(5).view(5, 1, 1, 1)
    part = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    ours, truth = run(synced, whole[part], weight[part]), run(plain, whole, weight)
    for name, expected in truth.items():
        found = ours[name]
        if name.startswith("grad"):
            dist.all_reduce(found)
        if name in ("output", "input"):
            expected = expected[part]
        # The sums over the batch are the only numbers that are far from 1.
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=1e-6, msg=name)


def compare(rank: int, num_processes: int) -> None:
    for sizes in SIZES[num_processes]:
        for options in ({}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}):
            plain = make_norm(**options)
            synced = synchronise_batch_norm(copy.deepcopy(plain))
            for _ in range(2):  # twice: running statistics that are not the first ones
                for norm in (plain, synced):
                    norm.zero_grad()
                assert_equal_to_one_process(synced, plain, sizes, rank)
            if not options:
                plain.eval()
                synced.eval()
                rows = torch.randn(2, 5, 1, 2, 2)
                assert torch.allclose(synced(rows), plain(rows), atol=1e-6)


def compare_other_kinds(rank: int, num_processes: int) -> None:
    """Rows [N, C] and [N, C, L], pictures [N, C, H, W], in networks of users."""
    sizes = SIZES[num_processes][1]
    part = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    for kind, shape in ((nn.BatchNorm1d, ()), (nn.BatchNorm1d, (4,)), (nn.BatchNorm2d, (3, 2))):
        plain = kind(5)
        synced = synchronise_batch_norm(copy.deepcopy(plain))
        generator = torch.Generator().manual_seed(4)
        whole, weight = torch.randn(2, sum(sizes), 5, *shape, generator=generator)
        ours, truth = run(synced, whole[part], weight[part]), run(plain, whole, weight)
        for name, expected in truth.items():
            if name.startswith("grad"):
                dist.all_reduce(ours[name])
            wanted = expected[part] if name in ("output", "input") else expected
            torch.testing.assert_close(ours[name], wanted, rtol=1e-5, atol=1e-5, msg=name)


def survive_a_large_mean(rank: int, num_processes: int) -> None:
    """Sums of squares would lose the variance of 1 next to a mean of 4000."""
    rows = torch.randn(4, 5, 2, 2, 2, generator=torch.Generator().manual_seed(rank)) + 4000
    output = synchronise_batch_norm(nn.BatchNorm3d(5))(rows)
    gathered = [torch.empty_like(output) for _ in range(num_processes)]
    dist.all_gather(gathered, output.detach().contiguous())
    deviation = torch.cat(gathered).std(dim=(0, 2, 3, 4), correction=0)
    torch.testing.assert_close(deviation, torch.ones(5), rtol=0, atol=1e-3)


def keep_statistics_equal(rank: int, num_processes: int) -> None:
    norm = synchronise_batch_norm(nn.BatchNorm3d(5))
    for step in range(5):
        norm(torch.randn(3, 5, 2, 2, 2, generator=torch.Generator().manual_seed(9 * rank + step)))
    for buffer in norm.buffers():
        everywhere = [torch.empty_like(buffer) for _ in range(num_processes)]
        dist.all_gather(everywhere, buffer)
        assert all(torch.equal(other, buffer) for other in everywhere)


def stay_in_one_graph(rank: int, num_processes: int) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        torch._dynamo.reset()
        model = nn.Sequential(nn.Conv3d(5, 5, 1), make_norm(), nn.ReLU())
        synchronise_batch_norm(model)
        compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
        sizes = SIZES[num_processes][0]
        rows = torch.randn(sizes[rank], 5, 2, 3, 3, generator=torch.Generator().manual_seed(rank))
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            results = [run(m, rows, torch.ones(1)) for m in (model, compiled)]
        assert results[0]["output"].dtype == dtype
        for name, value in results[0].items():
            twin = results[1].get(name, results[1].get(f"grad _orig_mod.{name[5:]}"))
            twin = results[1].get(f"_orig_mod.{name}") if twin is None else twin
            tolerance = 1e-6 if dtype == torch.float32 else 2e-2
            torch.testing.assert_close(twin, value, rtol=tolerance, atol=tolerance, msg=name)


CHECKS = {  # compiling takes long, and what it makes of 2 processes it makes of 4
    2: (compare, compare_other_kinds, survive_a_large_mean, stay_in_one_graph),
    4: (compare, keep_statistics_equal),
}


def run_process(rank: int, num_processes: int, folder: Path) -> None:
    with gloo_process(rank, num_processes, folder):
        for check in CHECKS[num_processes]:
            check(rank, num_processes)


@pytest.mark.parametrize("num_processes", [2, 4])
def test_processes_together_equal_one_process(num_processes: int, tmp_path: Path) -> None:
    mp.spawn(run_process, (num_processes, tmp_path), nprocs=num_processes)


def test_a_model_is_converted_in_place_with_the_names_of_its_state() -> None:
    model = create_backbone("tiny")
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm3d)]
    names = list(model.state_dict())
    assert synchronise_batch_norm(model) is model
    assert list(model.state_dict()) == names
    assert norms
    assert all(type(norm) is SyncedBatchNorm3d for norm in norms)
    synchronise_batch_norm(model)  # a second time changes nothing


def test_one_process_is_plain_batch_norm_to_the_last_bit() -> None:
    plain = make_norm()
    synced = synchronise_batch_norm(copy.deepcopy(plain))
    rows, weight = torch.randn(2, 4, 5, 2, 3, 3)
    ours, truth = run(synced, rows, weight), run(plain, rows, weight)
    assert all(torch.equal(ours[name], truth[name]) for name in truth)


def test_a_batch_norm_of_another_kind_is_refused() -> None:
    class Own(nn.BatchNorm2d):
        pass

    for norm in (nn.SyncBatchNorm(3), nn.LazyBatchNorm3d(), Own(3)):
        kind = type(norm).__name__
        with pytest.raises(InputError, match=f"1 is a {kind}, whose .* in one process"):
            synchronise_batch_norm(nn.Sequential(nn.Identity(), norm))
