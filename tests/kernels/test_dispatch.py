"""The backend that a caller chooses, and dtypes that autocast mixes."""

import warnings

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fastdual.kernels.backend import MAX_KERNEL_DIM
from fastdual.kernels.dispatch import takes_reference
from fastdual.losses import ContrastiveLoss
from tests.embeddings import BACKENDS, unit


def test_eager_alone_is_the_reference() -> None:
    rows = unit(3, 4)
    assert takes_reference("eager", rows) and not takes_reference("auto", rows)
    with pytest.raises(ValueError, match="backend is 'fused' but embeddings are torch.float64 on"):
        takes_reference("fused", rows)
    with pytest.raises(ValueError, match="backend is 'triton', must be one of 'auto', 'eager'"):
        takes_reference("triton", rows)


def test_rows_too_wide_for_the_kernels_are_told_of_on_a_gpu() -> None:
    with FakeTensorMode():  # a device without a driver
        wide, narrow = (torch.empty(2, dim, device="cuda") for dim in (4096, MAX_KERNEL_DIM))
    with pytest.warns(UserWarning, match="D = 4096, more than the 2048 of the fused kernels"):
        assert not takes_reference("auto", wide)
    with pytest.raises(ValueError, match="D = 4096: the kernels need .* D of at most 2048"):
        takes_reference("fused", wide)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        takes_reference("auto", narrow)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("key_dtype", [torch.bfloat16, torch.float32])
def test_autocast_changes_nothing_but_takes_mixed_dtypes(
    backend: str, key_dtype: torch.dtype
) -> None:
    """A bf16 network against a float32 queue, as torch's own losses would take them."""
    query, key = unit(4, 8).bfloat16(), unit(6, 8, seed=1).to(key_dtype)
    query_ids, key_ids = torch.arange(4), torch.arange(6)
    loss = ContrastiveLoss(0.2, backend=backend)
    wide = (query.float(), key.float()) if key_dtype == torch.float32 else (query, key)
    expected = loss(*wide, query_ids, key_ids)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(query, key, query_ids, key_ids), expected)
    assert expected.dtype == torch.float32
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(ValueError, match="key has dtype torch.int64"),
    ):
        loss(query, key.long(), query_ids, key_ids)
    if key_dtype == torch.float32:
        with pytest.raises(ValueError, match="key has dtype torch.float32 but query has"):
            loss(query, key, query_ids, key_ids)
