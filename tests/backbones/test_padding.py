"""Padded middle channels stay exactly zero in training, and nobody outside sees them."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fastdual.backbones import create_backbone
from fastdual.backbones.layers import FactoredConv3d
from fastdual.backbones.padding import pad_for_gpu
from fastdual.backbones.resnet18 import FactoredSequential
from fastdual.config import resolve
from fastdual.config.sections import OptimiserConfig
from fastdual.errors import InputError
from fastdual.model.dual import DualModel
from fastdual.run.checkpoint import find_checkpoint, list_checkpoints, load_checkpoint
from fastdual.training.optimisers import create_optimiser
from fastdual.training.pretrain import Pretraining
from fastdual.weights.load import load_network
from tests.runs import arguments, differences, invoke, write_index

CLIP = (4, 16, 16)


def make(name: str, multiple: int) -> nn.Module:
    torch.manual_seed(0)
    return create_backbone(name, clip_shape=CLIP, channel_multiple=multiple)


def middle(backbone: nn.Module) -> list[tuple[nn.Conv3d, nn.BatchNorm3d, nn.Conv3d]]:
    kinds = FactoredConv3d | FactoredSequential
    return [module.halves() for module in backbone.modules() if isinstance(module, kinds)]


def added(padded: nn.Module, plain: nn.Module) -> list[Tensor]:
    """All that was appended: weights, scales, shifts, means and variances."""
    parts = []
    for ours, theirs in zip(middle(padded), middle(plain), strict=True):
        kept = theirs[0].out_channels
        parts += [ours[0].weight[kept:], ours[2].weight[:, kept:]]
        norm = ours[1]
        parts += [t[kept:] for t in (norm.weight, norm.bias, norm.running_mean, norm.running_var)]
    return parts


@pytest.mark.parametrize("name", ["tiny", "r2plus1d-18"])
def test_padded_networks_compute_and_save_what_plain_ones_do(name: str) -> None:
    padded, plain = make(name, 16), make(name, 1)
    assert all(spatial.out_channels % 16 == 0 for spatial, _, _ in middle(padded))
    assert any(part.numel() for part in added(padded, plain))
    assert differences(dict(padded.state_dict()), dict(plain.state_dict())) == []
    # In double: batch norm over the two values of a last map magnifies rounding.
    clips = torch.randn(2, 3, *CLIP, dtype=torch.double)
    for mode in (True, False):
        outputs = [network.double().train(mode)(clips) for network in (padded, plain)]
        torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)
    # There and back, through a file's worth of tensors.
    fresh = make(name, 8).double(), make(name, 1).double()
    for source, target in ((padded, fresh[0]), (padded, fresh[1]), (plain, padded)):
        with torch.no_grad():
            for weight in source.parameters():
                weight.mul_(1.5)
        target.load_state_dict({k: v.clone() for k, v in source.state_dict().items()})
        assert differences(dict(target.state_dict()), dict(source.state_dict())) == []


@pytest.mark.parametrize("optimiser", ["sgd", "lars", "adamw"])
def test_what_was_added_stays_exactly_zero_through_training(optimiser: str) -> None:
    """With momentum, weight decay and batch norm, in double so that the rest can be compared."""
    config = OptimiserConfig(name=optimiser, learning_rate=0.01, weight_decay=0.1)  # type: ignore[arg-type]
    runs = []
    for multiple in (16, 1):
        backbone = make("tiny", multiple)
        model = DualModel(backbone, num_segments=2).double()
        trained = create_optimiser(model, config, fused=False)
        generator = torch.Generator().manual_seed(1)
        losses = []
        for _ in range(6):
            clips = torch.randn(4, 3, *CLIP, generator=generator, dtype=torch.double)
            clip, segments = model(clips)
            loss = (clip @ clip.T).square().mean() + segments.square().sum(0).std()
            trained.zero_grad()
            loss.backward()
            trained.step()
            losses.append(loss.item())
        runs.append((backbone, losses, [*trained.state.values()]))
    (padded, ours, states), (plain, truth, _) = runs
    assert ours == pytest.approx(
        truth, rel=1e-3
    )  # rounding, which batch norm of 4 values magnifies
    assert ours[0] != ours[-1]
    for part in added(padded, plain):
        assert torch.equal(part, torch.zeros_like(part))
    assert states


def test_a_copy_is_padded_too() -> None:
    padded = make("tiny", 16)
    twin = copy.deepcopy(padded)
    with torch.no_grad():
        twin.conv1.spatial_conv.weight[0] += 1
    assert differences(dict(twin.state_dict()), dict(make("tiny", 1).state_dict())) == [
        ".conv1.spatial_conv.weight"
    ]
    padded.load_state_dict(twin.state_dict())


def test_networks_without_middle_channels_refuse() -> None:
    with pytest.raises(InputError, match="model.channel_multiple = 8: this backbone has no factor"):
        make("r3d", 8)


def test_a_gpu_pads_what_can_be_padded_and_a_config_may_say_otherwise() -> None:
    backbone, other = make("tiny", 1), make("r3d", 1)
    for network in (backbone, other):
        pad_for_gpu(network)
    assert all(spatial.out_channels % 8 == 0 for spatial, _, _ in middle(backbone))
    assert differences(dict(other.state_dict()), dict(make("r3d", 1).state_dict())) == []
    for setting, multiple in (("none", None), ("1", 1), ("16", 16)):
        config = resolve([], [f"model.channel_multiple={setting}"]).config
        assert Pretraining(config).channel_multiple == multiple


def test_a_run_with_padding_resumes_to_the_same_bits_and_saves_none_of_it(tmp_path: Path) -> None:
    index = write_index(tmp_path, count=8)
    settings = {"model__channel_multiple": 16, "schedule__epochs": 2, "schedule__milestones": "[]"}
    runs = tmp_path / "whole", tmp_path / "parted"
    for run in runs:
        result = invoke(arguments(index, run, run__checkpoint_every_steps=2, **settings))
        assert result.exit_code == 0, result.output
    list_checkpoints(runs[1] / "checkpoints")[0].unlink()
    result = invoke(["pretrain", str(index), "--run", str(runs[1]), "--resume"])
    assert result.exit_code == 0, result.output
    assert "at step 2 of 4" in result.stderr
    states = [load_checkpoint(find_checkpoint(run)) for run in runs]
    assert differences(*states) == []
    names = {f"backbone.{k}": v.shape for k, v in make("tiny", 1).state_dict().items()}
    saved = {k: v.shape for k, v in states[0]["model"].items() if k.startswith("backbone.")}
    assert saved == names
    load_network(runs[0])
