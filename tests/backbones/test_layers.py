"""Every family of backbones begins as the code that its recipes were tuned on."""

import math

import pytest
import torch
from torch import nn

from fastdual.backbones import create_backbone


def convolutions(name: str) -> list[nn.Conv3d]:
    """The larger convolutions, whose deviation is known to some per cent."""
    torch.manual_seed(0)
    found = [m for m in create_backbone(name).modules() if isinstance(m, nn.Conv3d)]
    return [layer for layer in found if layer.weight.numel() > 4000]


@pytest.mark.parametrize("name", ["r2plus1d", "r3d", "c3d"])
def test_the_papers_residual_nets_and_c3d_have_torchs_own_weights(name: str) -> None:
    for layer in convolutions(name):
        bound = 1 / math.sqrt(layer.weight[0].numel())
        assert float(layer.weight.detach().abs().max()) <= bound
        assert float(layer.weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)
        if layer.bias is not None:
            assert 0.9 * bound < float(layer.bias.detach().abs().max()) <= bound


@pytest.mark.parametrize("name", ["s3d", "s3d-g"])
def test_s3d_has_small_normal_weights(name: str) -> None:
    for layer in convolutions(name):
        assert float(layer.weight.std()) == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("name", ["r2plus1d-18", "r3d-18", "tiny"])
def test_torchvisions_nets_have_hes_weights(name: str) -> None:
    for layer in convolutions(name):
        fan_out = layer.out_channels * math.prod(layer.kernel_size)
        assert float(layer.weight.std()) == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)


@pytest.mark.parametrize("name", ["r2plus1d", "s3d-g", "tiny"])
def test_batch_norm_begins_as_the_identity(name: str) -> None:
    for layer in create_backbone(name).modules():
        if isinstance(layer, nn.BatchNorm3d):
            assert bool((layer.weight == 1).all()) and not bool(layer.bias.any())
