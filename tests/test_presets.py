"""Every loss module as a trainer may use it: compiled as one graph, and differentiated twice."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastdual.losses import (
    ClipLoss,
    DualVarianceLoss,
    NTXentLoss,
    ShuffleRankLoss,
    SupConLoss,
    TemporalCoherenceLoss,
)


class Preset(NamedTuple):
    """A module and its arguments: the shapes of the embeddings first, then what has no gradient."""

    make: Callable[..., nn.Module]
    shapes: list[tuple[int, ...]]
    rest: list[Any]


NUMBERS = torch.arange(5)
ORDER = torch.tensor([[1, 0, 2], [0, 1, 2], [2, 0, 1], [2, 1, 0], [0, 2, 1]])
VIEWS, SEGMENTS = [(5, 8)] * 2, [(5, 3, 8)] * 2
PRESETS = {
    "NTXentLoss": Preset(NTXentLoss, VIEWS, []),
    "NTXentLoss with ids": Preset(NTXentLoss, VIEWS, [NUMBERS % 3]),
    "SupConLoss": Preset(SupConLoss, [(5, 8)], [NUMBERS % 2]),
    "ClipLoss": Preset(ClipLoss, VIEWS, [10.0]),
    "ClipLoss with a learned scale": Preset(ClipLoss, [*VIEWS, ()], []),
    "TemporalCoherenceLoss": Preset(TemporalCoherenceLoss, SEGMENTS, []),
    "TemporalCoherenceLoss of segments": Preset(
        lambda **options: TemporalCoherenceLoss(form="segments", **options), SEGMENTS, []
    ),
    "ShuffleRankLoss": Preset(ShuffleRankLoss, SEGMENTS, [ORDER]),
    "DualVarianceLoss": Preset(DualVarianceLoss, [(5, 4, 8), (5, 4, 3, 8)], [ORDER, NUMBERS]),
}


def embeddings(preset: Preset) -> list[Tensor]:
    """Leaves of unit rows; a shape without dimensions is a scale of 10."""
    generator = torch.Generator().manual_seed(0)

    def leaf(shape: tuple[int, ...]) -> Tensor:
        rows = torch.randn(shape, generator=generator)
        made = F.normalize(rows, dim=-1) if shape else torch.tensor(10.0)
        return made.requires_grad_()

    return [leaf(shape) for shape in preset.shapes]


def scalar(result: Any) -> Tensor:
    """What a trainer calls backward on."""
    return result if isinstance(result, Tensor) else result.total


@pytest.mark.parametrize("name", PRESETS)
def test_compiles_as_one_graph_and_gives_the_same(name: str) -> None:
    preset = PRESETS[name]
    loss = preset.make()
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    outcomes = []
    for call in (compiled, loss):
        inputs = embeddings(preset)
        result = call(*inputs, *preset.rest)
        parts = [result] if isinstance(result, Tensor) else list(result)
        outcomes.append([*parts, *torch.autograd.grad(scalar(result), inputs)])
    for ours, expected in zip(*outcomes, strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("name", PRESETS)
def test_second_derivative_is_refused_and_eager_has_it(name: str) -> None:
    preset = PRESETS[name]
    for backend in ("auto", "eager"):
        inputs = embeddings(preset)
        loss = scalar(preset.make(backend=backend)(*inputs, *preset.rest))
        grads = torch.autograd.grad(loss, inputs, create_graph=True)
        penalty = sum(grad.square().sum() for grad in grads)
        if backend == "auto":
            # The message names the way out.
            words = r"(no second derivative|differentiated once only).*fastdual\.kernels\.reference"
            with pytest.raises(RuntimeError, match=f"(?s){words}"):
                penalty.backward()
        else:
            penalty.backward()
            assert all(x.grad.isfinite().all() and x.grad.any() for x in inputs)
