"""Export to ONNX: the same features under ONNX Runtime, a checked file, a missing extra."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastdual.backbones import backbone_names, create_backbone
from fastdual.config import PretrainConfig
from fastdual.errors import FailureError, InputError
from fastdual.model.encoder import VideoEncoder
from fastdual.weights.load import load
from fastdual.weights.onnx import export_onnx
from tests.evaluate.small import small_checkpoint
from tests.runs import invoke

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")


def test_exported_network_gives_the_same_features_for_any_batch(tmp_path: Path) -> None:
    target = tmp_path / "x.onnx"
    done = invoke(["export", str(small_checkpoint()), "--format", "onnx", "-o", str(target)])
    assert done.exit_code == 0, done.output
    assert "ONNX Runtime gives the same features to" in done.stdout
    encoder = load(small_checkpoint())
    session = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
    for count in (1, 2, 5):
        clips = torch.randn(count, 3, 8, 48, 48, generator=torch.Generator().manual_seed(count))
        (features,) = session.run(None, {"clips": clips.numpy()})
        with torch.inference_mode():
            expected = encoder(clips).numpy()
        assert features.shape == (count, encoder.feature_dim)
        assert np.abs(features - expected).max() <= 1e-4 * np.abs(expected).max()
    header = json.loads(session.get_modelmeta().custom_metadata_map["fastdual"])
    assert header["source"] == encoder.weights_sha256
    assert header["config"]["model.backbone"] == "tiny"
    assert header["mean"] == pytest.approx([0.485, 0.456, 0.406])


@pytest.mark.parametrize("name", backbone_names())
def test_every_backbone_agrees(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = PretrainConfig.from_dict(
        {"model.backbone": name, "clip.frames_per_clip": 8, "clip.crop_size": 32}, origin="test"
    )
    encoder = VideoEncoder(create_backbone(name), config, weights_sha256="ab" * 32)
    assert export_onnx(encoder, tmp_path / "x.onnx") <= 1e-4


class _Data(nn.Module):
    """What it computes depends on numbers in the clips, so that no trace of it is the network."""

    feature_dim = 3

    def forward(self, clips: Tensor) -> Tensor:
        scale = 2.0 if float(clips[0, 0, 0, 0, 0]) > 0 else 1.0
        return clips.mean(dim=(2, 3, 4), keepdim=True) * scale


def test_network_that_cannot_be_traced_leaves_no_file(tmp_path: Path) -> None:
    encoder = replace_backbone(_Data())
    with pytest.raises(FailureError, match="cannot be traced"):
        export_onnx(encoder, tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


class _Cancels(nn.Module):
    """The same convolution twice, its channels in another order, and what is left of one less the
    other: rounding, and nothing else."""

    feature_dim = 8

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = (nn.Conv3d(96, 8, 3) for _ in range(2))
        with torch.no_grad():
            self.other.weight.copy_(self.one.weight.flip(1))
            self.other.bias.copy_(self.one.bias)  # type: ignore[union-attr]

    def forward(self, clips: Tensor) -> Tensor:
        many = clips.repeat(1, 32, 1, 1, 1) * torch.arange(1, 97, device=clips.device).view(
            -1, 1, 1, 1
        )
        return self.one(many) - self.other(many.flip(1))


def test_weights_that_float32_cannot_hold_are_told_from_a_wrong_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    with pytest.raises(FailureError, match=r"float32 itself is .* off float64 .*train longer"):
        export_onnx(replace_backbone(_Cancels()), tmp_path / "x.onnx")
    other = load(small_checkpoint())
    with torch.no_grad():
        next(other.backbone.parameters()).mul_(1.01)
    export = torch.onnx.export
    monkeypatch.setattr(
        torch.onnx, "export", lambda _, *values, **options: export(other, *values, **options)
    )
    with pytest.raises(FailureError, match="nothing was written; please report it"):
        export_onnx(load(small_checkpoint()), tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


def replace_backbone(backbone: nn.Module) -> VideoEncoder:
    return VideoEncoder(backbone, load(small_checkpoint()).config, weights_sha256="ab" * 32)


def test_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'needs onnx, .*pip install "\.\[onnx\]" in fastdual'):
        export_onnx(load(small_checkpoint()), tmp_path / "x.onnx")
