"""Optimisers against their formulas, their states on another device, and what LARS leaves alone."""

import copy
import math

import pytest
import torch
from torch import nn

from fastdual.backbones import create_backbone
from fastdual.config.sections import OptimiserConfig
from fastdual.training.optimisers import create_optimiser, load_optimiser_state

STATES = {"sgd": "momentum_buffer", "lars": "momentum_buffer", "adamw": "exp_avg"}


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


@pytest.mark.parametrize("name", ["sgd", "lars", "adamw"])
@pytest.mark.parametrize("to_gpu", [True, False])
def test_a_state_takes_the_memory_format_of_the_weights_that_it_is_loaded_for(
    name: str, to_gpu: bool
) -> None:
    """Weights lie channels last on a GPU, and its fused steps demand states with their strides."""

    def make(channels_last: bool) -> tuple[nn.Module, torch.optim.Optimizer]:
        network = create_backbone("tiny", clip_shape=(4, 16, 16))
        if channels_last:
            nn.utils.convert_conv3d_weight_memory_format(network, torch.channels_last_3d)
        return network, create_optimiser(network, OptimiserConfig(name=name), fused=False)

    (network, before), (twin, after) = make(not to_gpu), make(to_gpu)
    for weight in network.parameters():
        weight.grad = torch.randn_like(weight)
    before.step()
    load_optimiser_state(after, before.state_dict())
    differ = 0
    for old, new in zip(network.parameters(), twin.parameters(), strict=True):
        differ += old.stride() != new.stride()
        for key, value in before.state[old].items():
            found = after.state[new][key]
            assert torch.equal(found, value) and found.dtype == value.dtype
            if value.shape == new.shape:
                assert found.stride() == new.stride()
    assert differ > 10


@pytest.mark.parametrize("multiples", [(1, 16), (16, 1), (8, 16)])
@pytest.mark.parametrize("name", ["sgd", "lars", "adamw"])
def test_a_state_goes_on_under_other_padding(name: str, multiples: tuple[int, int]) -> None:
    """A run on a CPU pads no channels, and goes on on a GPU, which does."""
    config = OptimiserConfig(name=name, learning_rate=0.01, weight_decay=0.1)

    def make(multiple: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        shape = {"clip_shape": (4, 16, 16), "channel_multiple": multiple}
        network = create_backbone("tiny", **shape).double()
        return network, create_optimiser(network, config, fused=False)

    plain = dict(make(1)[0].named_parameters())

    def take_steps(network: nn.Module, optimiser: torch.optim.Optimizer, seed: int) -> None:
        """Padding gets gradients of 0, as in training (tests/backbones/test_padding.py)."""
        generator = torch.Generator().manual_seed(seed)
        for _ in range(2):
            for key, weight in network.named_parameters():
                weight.grad = torch.zeros_like(weight)
                gradient = torch.randn(plain[key].shape, generator=generator, dtype=torch.double)
                weight.grad[tuple(map(slice, gradient.shape))] = gradient
            optimiser.step()

    (network, before), (twin, after) = make(multiples[0]), make(multiples[1])
    take_steps(network, before, seed=1)
    twin.load_state_dict(network.state_dict())
    load_optimiser_state(after, copy.deepcopy(before.state_dict()))
    for weight in twin.parameters():
        assert after.state[weight][STATES[name]].shape == weight.shape
    for one in ((network, before), (twin, after)):
        take_steps(*one, seed=2)
    for key, value in twin.state_dict().items():
        torch.testing.assert_close(value, network.state_dict()[key], rtol=1e-12, atol=1e-12)
