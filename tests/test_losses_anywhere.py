"""Losses on embeddings of any width, and beside whatever device is torch's default."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from fastdual.losses import (
    ClipLoss,
    ContrastiveLoss,
    DualVarianceLoss,
    NTXentLoss,
    ShuffleRankLoss,
    SupConLoss,
    TemporalCoherenceLoss,
)
from tests.embeddings import BACKENDS, dual_inputs, unit

IDS = torch.arange(6) // 2
ORDER = torch.rand(6, 3, generator=torch.Generator().manual_seed(0)).argsort(dim=1)


def of_width(dim: int, backend: str) -> dict[str, tuple[torch.nn.Module, tuple[Tensor, ...]]]:
    """Every loss with arguments for it; embeddings come first."""
    rows, others = unit(2, 6, dim)
    first, second = unit(2, 6, 3, dim, seed=1)
    how = {"temperature": 0.3, "backend": backend}
    return {
        "ntxent": (NTXentLoss(**how), (rows, others)),
        "supcon": (SupConLoss(**how), (rows, IDS)),
        "contrastive": (ContrastiveLoss(**how, normalize=True), (rows, others, IDS, IDS)),
        "clip": (ClipLoss(backend=backend), (rows, others, torch.tensor(3.0).double())),
        "coherence": (TemporalCoherenceLoss(**how), (first, second)),
        "segments": (TemporalCoherenceLoss(**how, form="segments"), (first, second)),
        "rank": (ShuffleRankLoss(**how), (first, second, ORDER)),
    }


LOSSES = list(of_width(2, "auto"))


def measured(loss: Callable[..., Tensor], arguments: tuple[Tensor, ...]) -> Iterator[Tensor]:
    """The loss, and the gradient of each argument that can have one."""
    inputs = [x.clone().requires_grad_(x.is_floating_point()) for x in arguments]
    value = loss(*inputs)
    value.backward()
    yield value.detach()
    yield from (x.grad for x in inputs if x.grad is not None)


@pytest.mark.parametrize("dim", [1025, 2048, 3000])
@pytest.mark.parametrize("name", LOSSES)
def test_any_width_has_the_result_of_the_plain_formula(name: str, dim: int) -> None:
    ours = measured(*of_width(dim, "auto")[name])
    truth = measured(*of_width(dim, "eager")[name])
    for found, expected in zip(ours, truth, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.fixture
def elsewhere() -> Iterator[None]:
    """Everything that is made without saying where lands on a device without values."""
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", LOSSES)
def test_the_default_device_is_not_asked(
    name: str, backend: str, request: pytest.FixtureRequest
) -> None:
    loss, arguments = of_width(8, backend)[name]
    expected = list(measured(loss, arguments))
    request.getfixturevalue("elsewhere")
    for found, value in zip(measured(loss, arguments), expected, strict=True):
        assert torch.equal(found, value)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nor_by_the_whole_objective(backend: str, request: pytest.FixtureRequest) -> None:
    loss, arguments = DualVarianceLoss(backend=backend), dual_inputs(4, 2)
    expected = loss(*arguments)
    request.getfixturevalue("elsewhere")
    found = loss(*arguments)
    assert torch.equal(found.total, expected.total)
