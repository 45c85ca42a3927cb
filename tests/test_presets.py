"""Every loss module as a trainer may use it: compiled, checkpointed, transformed, derived twice."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from fastdual.losses import (
    ClipLoss,
    DualVarianceLoss,
    NTXentLoss,
    ShuffleRankLoss,
    SupConLoss,
    TemporalCoherenceLoss,
)
from tests.embeddings import BACKENDS, unit


class Preset(NamedTuple):
    """A module, and its arguments for a number of samples: embeddings first, then the rest."""

    make: Callable[..., nn.Module]
    shapes: list[tuple[int, ...]]  # of the embeddings of one sample; (): a scale
    rest: Callable[[int], list[Any]] = lambda batch: []

    def arguments(self, batch: int) -> tuple[list[Tensor], list[Any]]:
        """Leaves that are differentiated, and what has no gradient."""
        leaves = [
            unit(batch, *shape, seed=seed) if shape else torch.tensor(10.0)
            for seed, shape in enumerate(self.shapes)
        ]
        return [leaf.requires_grad_() for leaf in leaves], self.rest(batch)

    def of_first(self, batch: int, **options: Any) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """The loss as a function of its first argument, and that argument, which is no leaf."""
        (first, *others), rest = self.arguments(batch)
        others = [other.detach() for other in others]
        module = self.make(**options)
        return lambda x: scalar(module(x, *others, *rest)), first.detach()


def order(batch: int) -> Tensor:
    return torch.tensor([[1, 0, 2], [2, 0, 1], [2, 1, 0]]).repeat(batch // 3 + 1, 1)[:batch]


VIEWS, SEGMENTS = [(8,)] * 2, [(3, 8)] * 2
PRESETS = {
    "NTXentLoss": Preset(NTXentLoss, VIEWS),
    "NTXentLoss with ids": Preset(NTXentLoss, VIEWS, lambda b: [torch.arange(b) % 3]),
    "SupConLoss": Preset(SupConLoss, [(8,)], lambda b: [torch.arange(b) // 2]),
    "ClipLoss": Preset(ClipLoss, VIEWS, lambda b: [10.0]),
    "ClipLoss with a learned scale": Preset(ClipLoss, [*VIEWS, ()]),
    "TemporalCoherenceLoss": Preset(TemporalCoherenceLoss, SEGMENTS),
    "TemporalCoherenceLoss of segments": Preset(
        lambda **options: TemporalCoherenceLoss(form="segments", **options), SEGMENTS
    ),
    "ShuffleRankLoss": Preset(ShuffleRankLoss, SEGMENTS, lambda b: [order(b)]),
    "DualVarianceLoss": Preset(
        DualVarianceLoss, [(4, 8), (4, 3, 8)], lambda b: [order(b), torch.arange(b)]
    ),
}


def scalar(result: Any) -> Tensor:
    """What a trainer calls backward on."""
    return result if isinstance(result, Tensor) else result.total


def outcome(call: Callable[..., Any], leaves: list[Tensor], rest: list[Any]) -> list[Tensor]:
    """All that a loss returns, and its gradients."""
    result = call(*leaves, *rest)
    parts = [result] if isinstance(result, Tensor) else list(result)
    return [*parts, *torch.autograd.grad(scalar(result), leaves)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PRESETS)
def test_compiles_as_one_graph_and_for_another_batch_once_more_at_most(
    name: str, backend: str
) -> None:
    torch._dynamo.reset()
    loss = PRESETS[name].make(backend=backend)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(loss, fullgraph=True, backend=counter)
    for batch in (8, 12, 6, 33, 7):
        arguments = PRESETS[name].arguments(batch)
        torch.testing.assert_close(outcome(compiled, *arguments), outcome(loss, *arguments))
    assert counter.frame_count <= 2


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", PRESETS)
def test_activation_checkpointing_changes_nothing(name: str, reentrant: bool, backend: str) -> None:
    loss, x = PRESETS[name].of_first(6, backend=backend)
    x.requires_grad_()
    (expected,) = torch.autograd.grad(loss(x), x)
    checkpoint(loss, x, use_reentrant=reentrant).backward()
    assert torch.equal(x.grad, expected)


@pytest.mark.parametrize("name", PRESETS)
def test_transforms_of_torch_func_are_refused_and_eager_takes_them(name: str) -> None:
    """Forward mode would otherwise find a derivative of 0 and say nothing."""
    ours, x = PRESETS[name].of_first(6)
    eager, _ = PRESETS[name].of_first(6, backend="eager")
    direction = torch.ones_like(x)

    def directional(loss: Callable[[Tensor], Tensor]) -> Tensor:
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(loss(forward_ad.make_dual(x, direction))).tangent

    for transformed in (
        lambda loss: torch.func.grad(loss)(x),
        lambda loss: torch.func.jvp(loss, (x,), (direction,))[1],
        directional,
    ):
        with pytest.raises(RuntimeError, match="torch.func .* nor differentiated in forward mode"):
            transformed(ours)
        assert torch.isfinite(transformed(eager)).all()
    with pytest.raises(RuntimeError, match="use torch.autograd, or backend='eager'"):
        torch.vmap(ours)(torch.stack([x, x]))


@pytest.mark.parametrize("name", PRESETS)
def test_second_derivative_is_refused_and_eager_has_it(name: str) -> None:
    for backend in BACKENDS:
        leaves, rest = PRESETS[name].arguments(5)
        loss = scalar(PRESETS[name].make(backend=backend)(*leaves, *rest))
        grads = torch.autograd.grad(loss, leaves, create_graph=True)
        penalty = sum(grad.square().sum() for grad in grads)
        if backend == "auto":
            # The message names the way out.
            words = r"(no second derivative|differentiated once only).*fastdual\.kernels\.reference"
            with pytest.raises(RuntimeError, match=f"(?s){words}"):
                penalty.backward()
        else:
            penalty.backward()
            assert all(x.grad.isfinite().all() and x.grad.any() for x in leaves)
