"""Optimisers against their formulas, and what LARS leaves alone."""

import math

import pytest
import torch
from torch import nn

from fastdual.config.sections import OptimiserConfig
from fastdual.training.optimisers import create_optimiser


def lars_step(
    weight: list[float], gradient: list[float], velocity: list[float], layer: bool
) -> None:
    """The rule of arXiv:1708.03888, algorithm 1, in plain numbers and in place."""
    updates = list(gradient)
    if layer:
        updates = [g + 0.01 * w for g, w in zip(gradient, weight, strict=True)]
        norms = [math.sqrt(math.fsum(x * x for x in vector)) for vector in (weight, gradient)]
        ratio = 0.001 * norms[0] / (norms[1] + 0.01 * norms[0]) if all(norms) else 1.0
        updates = [ratio * update for update in updates]
    for i, update in enumerate(updates):
        velocity[i] = 0.9 * velocity[i] + update
        weight[i] -= 0.1 * velocity[i]


def test_lars_scales_layers_and_leaves_biases_and_a_layer_at_zero_alone() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2, bias=False)).double()
    nn.init.zeros_(module[1].weight)
    config = OptimiserConfig(name="lars", learning_rate=0.1, momentum=0.9, weight_decay=0.01)
    optimiser = create_optimiser(module, config, fused=False)
    plain = [weight.detach().flatten().tolist() for weight in module.parameters()]
    velocities = [[0.0] * len(weight) for weight in plain]
    for _ in range(3):
        for index, weight in enumerate(module.parameters()):
            weight.grad = torch.randn_like(weight)
            gradient = weight.grad.flatten().tolist()
            lars_step(plain[index], gradient, velocities[index], weight.ndim > 1)
        optimiser.step()
    for weight, expected in zip(module.parameters(), plain, strict=True):
        assert weight.flatten().tolist() == pytest.approx(expected, rel=1e-12)


def test_lars_goes_on_from_its_state_and_skips_weights_without_a_gradient() -> None:
    config = OptimiserConfig(name="lars", learning_rate=0.1)
    ends = []
    for stop in (False, True):
        torch.manual_seed(0)
        module = nn.Linear(3, 2)
        optimiser = create_optimiser(module, config, fused=False)
        for step in range(4):
            if stop and step == 2:
                state = optimiser.state_dict()
                optimiser = create_optimiser(module, config, fused=False)
                optimiser.load_state_dict(state)
            module.weight.grad = torch.full_like(module.weight, step + 1.0)
            optimiser.step()
        ends.append(module.weight.detach().clone())
        assert module.bias not in optimiser.state
    assert torch.equal(*ends)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_optimisers_take_one_step_of_their_textbook_rule(name: str) -> None:
    module = nn.Linear(3, 2, bias=False).double()
    before = module.weight.detach().clone()
    config = OptimiserConfig(name=name, learning_rate=0.1, momentum=0.9, weight_decay=0.01)
    optimiser = create_optimiser(module, config, fused=False)
    gradient = torch.arange(1.0, 7.0, dtype=torch.float64).reshape(2, 3)
    for _ in range(2):
        module.weight.grad = gradient.clone()
        optimiser.step()
    if name == "sgd":
        first = before - 0.1 * (gradient + 0.01 * before)
        velocity = 0.9 * (gradient + 0.01 * before) + gradient + 0.01 * first
        expected = first - 0.1 * velocity
    else:  # with equal gradients both moments are the gradient's own, so a step is its sign
        shrunk = before * (1 - 0.1 * 0.01) - 0.1 * gradient.sign()
        expected = shrunk * (1 - 0.1 * 0.01) - 0.1 * gradient.sign()
    torch.testing.assert_close(module.weight.detach(), expected, rtol=1e-7, atol=1e-7)
