"""Exports: the same features bit for bit, once for each tensor, and refusals."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

import fastdual
from fastdual.errors import InputError
from fastdual.weights.export import export_safetensors, export_torchvision
from fastdual.weights.foreign import import_backbone
from fastdual.weights.load import load
from tests.weights.encoders import clips_for, random_encoder


@pytest.mark.parametrize("name", ["tiny", "s3d", "s3d-g"])
def test_safetensors_give_the_same_features_bit_for_bit(name: str, tmp_path: Path) -> None:
    encoder, clips = random_encoder(name), clips_for()
    export_safetensors(encoder, tmp_path / "x.safetensors")
    loaded = fastdual.load(tmp_path / "x.safetensors")
    assert not loaded.training
    with torch.inference_mode():
        assert torch.equal(loaded(clips), encoder(clips))
    assert loaded.config == encoder.config
    # S3D has each tensor under two names; the file has it once.
    sizes = safetensors.torch.load_file(tmp_path / "x.safetensors").values()
    unique = {t.data_ptr(): t.numel() for t in encoder.backbone.state_dict().values()}
    assert sum(t.numel() for t in sizes) == sum(unique.values())


def test_torchvision_state_dict_goes_out_and_comes_back(tmp_path: Path) -> None:
    encoder, path = random_encoder("r2plus1d-18"), tmp_path / "x.pth"
    export_torchvision(encoder, path)
    state = torch.load(path, weights_only=True)
    state["fc.weight"], state["fc.bias"] = torch.zeros(400, 512), torch.zeros(400)
    torch.save(state, path)
    back, report = import_backbone(path, "r2plus1d-18")
    assert dict(report.left) == {"fc": 2}
    clips = clips_for(frames=4)
    with torch.inference_mode():
        assert torch.equal(back.eval()(clips), encoder(clips))
    with pytest.raises(InputError, match="torchvision has no tiny, only r2plus1d-18 and r3d-18"):
        export_torchvision(random_encoder("tiny"), path)


def test_damaged_and_foreign_exports_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(InputError, match="no such file"):
        load(path)
    export_safetensors(random_encoder("tiny"), path)
    content = path.read_bytes()
    data = 8 + int.from_bytes(content[:8], "little")  # behind the length and the header
    for place in (data, (data + len(content)) // 2, len(content) - 1):
        for bit in (1, 0x40):
            flipped = bytearray(content)
            flipped[place] ^= bit
            path.write_bytes(flipped)
            with pytest.raises(InputError, match=r"x\.safetensors: damaged: the checksum of its w"):
                load(path)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="damaged, or not safetensors"):
        load(path)
    safetensors.torch.save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(InputError, match="not from fastdual export"):
        load(path)
