"""The kernels of the shuffle-rank loss against the truth: interpreted on a CPU, or on a GPU."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from fastdual.kernels import shuffle_rank
from tests.kernels.shuffle_rank.cases import (
    INTERPRETED_CASES,
    NUM_REPEATED,
    Case,
    Outcome,
    assert_right,
    evaluate,
    kernel_cases,
    make_inputs,
)

GPU_CASES = kernel_cases(torch.float32, torch.float16, torch.bfloat16)

pytestmark = pytest.mark.xdist_group("shuffle_rank")


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Outcomes of INTERPRETED_CASES from the kernels, interpreted on the CPU in a child."""
    path = tmp_path_factory.mktemp("interpreted") / "outcomes.pt"
    subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.kernels.shuffle_rank.cases", str(path)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        check=True,
        timeout=300,
    )
    outcomes: dict[str, object] = torch.load(path)
    return outcomes


@pytest.mark.parametrize("number", range(len(INTERPRETED_CASES)))
def test_interpreted_kernels_are_no_worse_than_eager(
    interpreted: dict[str, list[tuple[Tensor, ...]]], number: int
) -> None:
    assert_right(Outcome(*interpreted["outcomes"][number]), INTERPRETED_CASES[number])


def test_interpreted_kernels_repeat_bit_by_bit(
    interpreted: dict[str, list[tuple[Tensor, ...]]],
) -> None:
    outcomes = interpreted["outcomes"]
    for first, second in zip(outcomes, outcomes[-NUM_REPEATED:], strict=False):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_forward_and_backward_are_three_launches(interpreted: dict[str, int]) -> None:
    assert interpreted["launches_per_case"] == 3


@pytest.mark.gpu
@pytest.mark.parametrize("case", GPU_CASES, ids=str)
def test_kernels_are_no_worse_than_eager(case: Case) -> None:
    ours = evaluate(shuffle_rank.shuffle_rank_loss_with_metrics, case, make_inputs(case, "cuda"))
    assert_right(ours, case, "cuda")


@pytest.mark.gpu
def test_kernels_repeat_bit_by_bit_and_never_wait_for_the_host() -> None:
    case = Case(4096, 2, 64, torch.bfloat16)
    inputs = make_inputs(case, "cuda")
    evaluate(shuffle_rank.shuffle_rank_loss_with_metrics, case, inputs)
    torch.cuda.set_sync_debug_mode("error")
    try:
        runs = [
            evaluate(shuffle_rank.shuffle_rank_loss_with_metrics, case, inputs) for _ in range(2)
        ]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.gpu
def test_cuda_graph_captures_forward_and_backward() -> None:
    case = Case(64, 2, 64)
    inputs = make_inputs(case, "cuda")
    expected = evaluate(shuffle_rank.shuffle_rank_loss_with_metrics, case, inputs)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = evaluate(shuffle_rank.shuffle_rank_loss_with_metrics, case, inputs)
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, expected, strict=True))
