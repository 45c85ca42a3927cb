"""Export to ONNX: the same features under ONNX Runtime, a checked file, a missing extra."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastdual.backbones import backbone_names, create_backbone
from fastdual.config import PretrainConfig
from fastdual.encoder import VideoEncoder
from fastdual.loaders.errors import FailureError, InputError
from fastdual.onnx_export import export_onnx
from fastdual.weights import load
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
    assert header["source"] == encoder.identity
    assert header["config"]["model.backbone"] == "tiny"
    assert header["mean"] == pytest.approx([0.485, 0.456, 0.406])


@pytest.mark.parametrize("name", backbone_names())
def test_every_backbone_agrees(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = PretrainConfig.from_dict(
        {"model.backbone": name, "clip.frames_per_clip": 8, "clip.crop_size": 32}, origin="test"
    )
    encoder = VideoEncoder(create_backbone(name), config, identity="ab" * 32)
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


def replace_backbone(backbone: nn.Module) -> VideoEncoder:
    return VideoEncoder(backbone, load(small_checkpoint()).config, identity="ab" * 32)


def test_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs onnx, .*pip install 'fastdual\[onnx\]'"):
        export_onnx(load(small_checkpoint()), tmp_path / "x.onnx")
