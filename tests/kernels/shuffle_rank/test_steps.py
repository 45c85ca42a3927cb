"""The shuffle-rank loss as torch operations against its truth."""

import pytest
import torch

from fastdual.kernels import shuffle_rank
from tests.kernels.shuffle_rank.cases import (
    Case,
    assert_right,
    evaluate,
    kernel_cases,
    make_inputs,
)

CASES = kernel_cases(torch.float32, torch.float64, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_without_kernels_it_is_no_worse_than_eager(case: Case) -> None:
    ours = evaluate(shuffle_rank.shuffle_rank_loss_with_metrics, case, make_inputs(case))
    assert_right(ours, case)
