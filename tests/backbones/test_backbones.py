"""The table of the method: parameters, arithmetic, shapes, names and outputs of every backbone."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fastdual.backbones import backbone_names, create_backbone
from fastdual.errors import InputError

# name: parameters, GFLOP of a forward of one clip 3x16x112x112, output shape
TABLE = {
    "r2plus1d": (14_365_303, 42.72, (512, 2, 7, 7)),
    "r3d": (14_361_792, 39.77, (512, 2, 7, 7)),
    "c3d": (27_661_440, 76.99, (512, 2, 7, 7)),
    "s3d": (7_910_048, 8.95, (1024, 2, 3, 3)),
    "s3d-g": (9_098_000, 8.95, (1024, 2, 3, 3)),
    "r2plus1d-18": (31_300_125, 81.0, (512, 2, 7, 7)),
    "r3d-18": (33_166_272, 81.4, (512, 2, 7, 7)),
    "tiny": (901_839, 0.72, (128, 2, 4, 4)),
}
# name here: name in the recorded numbers
RECORDED = {"r2plus1d": "r2plus1d", "r3d": "r3d", "c3d": "c3d", "s3d": "s3d", "s3d-g": "s3dg"}
TORCHVISION = {"r2plus1d-18": "r2plus1d_18", "r3d-18": "r3d_18"}
CLIP = (3, 16, 112, 112)


def keys_and_shapes(module: nn.Module) -> list[list[object]]:
    return [[key, list(value.shape)] for key, value in module.state_dict().items()]


def fill_with_recorded_weights(module: nn.Module) -> None:
    """The rule by which the recorded outputs were made: entry i of the state dict, a cosine."""
    for i, (key, value) in enumerate(module.state_dict().items()):
        if key.endswith("num_batches_tracked"):
            continue
        if key.endswith(("running_mean", "running_var")):
            value.fill_(float(key.endswith("running_var")))
            continue
        fan = value.numel() / value.shape[0] if value.ndim >= 2 else 1
        wave = np.cos(0.37 * np.arange(value.numel()) + i) * math.sqrt(2 / fan)
        if value.ndim == 1:
            wave = 1 + 0.1 * wave if key.endswith("weight") else 0.1 * wave
        value.copy_(torch.from_numpy(wave.reshape(tuple(value.shape))).float())


def test_every_backbone_is_in_the_table() -> None:
    assert set(backbone_names()) == set(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_size_arithmetic_and_output_are_those_of_the_table(name: str) -> None:
    parameters, gflop, shape = TABLE[name]
    with torch.device("meta"):
        backbone = create_backbone(name)
        clips = torch.empty(1, *CLIP)
    with FlopCounterMode(display=False) as counter:
        features = backbone.eval()(clips)
    assert sum(p.numel() for p in backbone.parameters()) == parameters
    assert counter.get_total_flops() / 1e9 == pytest.approx(
        gflop, abs=0.05 if gflop > 80 else 0.006
    )
    assert features.shape == (1, *shape)
    assert backbone.feature_dim == shape[0]


@pytest.mark.parametrize("name", RECORDED)
def test_outputs_match_the_released_code(name: str, golden: Path) -> None:
    recorded = json.loads((golden / "backbones.json").read_text())[RECORDED[name]]
    expected = np.load(golden / "backbones.npz")[RECORDED[name]]
    backbone = create_backbone(name).eval()
    assert keys_and_shapes(backbone) == recorded["state"]
    fill_with_recorded_weights(backbone)
    wave = np.sin(0.011 * np.arange(math.prod(CLIP))).reshape(1, *CLIP)
    with torch.no_grad():
        features = backbone(torch.from_numpy(wave).float()).mean(dim=(2, 3, 4))[0].numpy()
    # Relative to the largest feature: many are exactly 0 after the last ReLU.
    assert np.abs(features - expected).max() <= 1e-4 * np.abs(expected).max()
    assert np.abs(expected).max() > 0.1


@pytest.mark.parametrize("name", TORCHVISION)
def test_18_layer_nets_have_torchvisions_state_dict_without_classifier(
    name: str, golden: Path
) -> None:
    recorded = json.loads((golden / "torchvision_video_resnets.json").read_text())
    expected = [entry for entry in recorded[TORCHVISION[name]] if not entry[0].startswith("fc.")]
    with torch.device("meta"):
        assert keys_and_shapes(create_backbone(name)) == expected


@pytest.mark.parametrize("name", TABLE)
def test_compiles_without_a_graph_break_and_trains_every_weight(name: str) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    backbone = create_backbone(name)
    clips = torch.randn(2, 3, 8, 32, 32)
    compiled = torch.compile(backbone, fullgraph=True, backend="aot_eager")
    out = compiled(clips)
    out.square().mean().backward()
    for key, parameter in backbone.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
    torch.testing.assert_close(out, backbone(clips))


@pytest.mark.parametrize("name", ["r2plus1d", "s3d-g", "r3d-18"])
def test_channels_last_gives_the_same_features(name: str) -> None:
    torch.manual_seed(0)
    backbone = create_backbone(name).eval()
    clips = torch.randn(2, 3, 8, 32, 32)
    with torch.no_grad():
        plain = backbone(clips)
        backbone.to(memory_format=torch.channels_last_3d)
        last = backbone(clips.contiguous(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(last, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 32, 32), (9, 35, 33), (16, 64, 64), (32, 48, 80)])
def test_tiny_takes_any_clip_size(shape: tuple[int, int, int]) -> None:
    features = create_backbone("tiny").eval()(torch.zeros(1, 3, *shape))
    assert features.shape[:2] == (1, 128)
    assert torch.isfinite(features).all()


@pytest.mark.parametrize("name", ["c3d", "s3d", "s3d-g"])
def test_smallest_clip_trains_and_less_is_refused(name: str) -> None:
    smallest = (8, 16, 16) if name == "c3d" else (6, 17, 17)
    backbone = create_backbone(name, clip_shape=smallest)
    features = backbone(torch.randn(2, 3, *smallest))
    assert features.shape[2:] == (1, 1, 1)
    features.square().mean().backward()
    for axis in range(3):
        below = [size - (i == axis) for i, size in enumerate(smallest)]
        if axis > 0 or name == "c3d":  # of S3D's frames, see _SMALLEST_CLIP
            with pytest.raises(RuntimeError):
                backbone(torch.zeros(2, 3, *below))
        with pytest.raises(InputError, match=f"backbone {name} needs clips of at least"):
            create_backbone(name, clip_shape=(below[0], below[1], below[2]))


def test_unknown_backbone_names_the_choices() -> None:
    with pytest.raises(InputError, match=r"unknown backbone 'r50': choose one of tiny, r2plus1d"):
        create_backbone("r50")
