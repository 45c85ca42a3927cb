"""The kernels of the shuffle-rank loss against the truth: interpreted on a CPU, or on a GPU."""

import pytest
import torch

from fastdual.kernels import shuffle_rank
from tests.kernels.shuffle_rank.cases import (
    INTERPRETED_CASES,
    NUM_REPEATED,
    Case,
    Outcome,
    assert_right,
    evaluate,
    interpreted_outcome,
    kernel_cases,
    launches_of,
    make_inputs,
)

GPU_CASES = kernel_cases(torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("number", range(len(INTERPRETED_CASES)))
def test_interpreted_kernels_are_no_worse_than_eager(interpreted, number: int) -> None:
    case = INTERPRETED_CASES[number]
    assert_right(Outcome(*interpreted(interpreted_outcome, case)), case)


def test_interpreted_kernels_repeat_bit_by_bit(interpreted) -> None:
    for case in INTERPRETED_CASES[:NUM_REPEATED]:
        first, second = (interpreted(interpreted_outcome, case) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_forward_and_backward_are_three_launches(interpreted) -> None:
    assert interpreted(launches_of, INTERPRETED_CASES[0]) == 3


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
