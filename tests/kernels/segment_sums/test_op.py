"""Sums over segments with torch operations; the kernel is tested in test_contrastive_kernels.py."""

import pytest
import torch

from fastdual.kernels.segment_sums.op import segment_sums
from tests.kernels.segment_sums.cases import segment_views


def test_first_view_stands_before_the_second() -> None:
    first, second = segment_views(torch.float64)
    expected = torch.cat([first.sum(dim=1), second.sum(dim=1)])
    torch.testing.assert_close(segment_sums(first, second), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_added_up_in_float32(dtype: torch.dtype) -> None:
    views = segment_views(dtype)
    wide = torch.cat([view.float().sum(dim=1) for view in views])
    assert torch.equal(segment_sums(*views), wide.to(dtype))


def test_gradient_and_registration() -> None:
    first, second = (view[:, :, :7].requires_grad_() for view in segment_views(torch.float64))
    assert torch.autograd.gradcheck(segment_sums, (first, second))
    torch.library.opcheck(segment_sums, (first, second))
