"""Checkpoints of other code: the layouts that are known, and refusals."""

import argparse
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fastdual.errors import InputError
from fastdual.model.encoder import VideoEncoder
from fastdual.weights.foreign import import_backbone
from fastdual.weights.load import load
from tests.runs import invoke
from tests.weights.encoders import clips_for, random_encoder


def write_foreign(path: Path, encoder: VideoEncoder, *, ddp: bool = True) -> dict[str, Tensor]:
    """A checkpoint in the layout of the paper's research code: encoders, heads, queue."""
    start = "module." if ddp else ""
    state = {f"{start}encoder_q.0.{k}": v for k, v in encoder.backbone.state_dict().items()}
    state |= {f"{start}encoder_k.0.{k}": v + 1 for k, v in encoder.backbone.state_dict().items()}
    state[f"{start}encoder_q.2.weight"] = torch.zeros(4, 4)
    state[f"{start}queue"] = torch.zeros(4, 4)
    torch.save({"epoch": 3, "state_dict": state}, path)
    return state


@pytest.mark.parametrize("ddp", [True, False])
def test_research_checkpoint_gives_its_query_backbone(ddp: bool, tmp_path: Path) -> None:
    encoder, path = random_encoder("tiny"), tmp_path / "foreign.pth.tar"
    write_foreign(path, encoder, ddp=ddp)
    back, report = import_backbone(path, "tiny")
    count = len(encoder.backbone.state_dict())
    assert (report.prefix, report.taken) == ("encoder_q.0.", count)
    assert dict(report.left) == {"encoder_k.0": count, "encoder_q.2": 1, "queue": 1}
    with torch.inference_mode():
        assert torch.equal(back.eval()(clips_for()), encoder(clips_for()))
    target = tmp_path / "x.safetensors"
    arguments = ["export", str(path), "--backbone", "tiny", "-o", str(target)]
    done = invoke(arguments)
    assert done.exit_code == 0, done.output
    assert (
        f"taken: {count} entries under 'encoder_q.0.'; left: encoder_k.0 ({count})" in done.stdout
    )
    with torch.inference_mode():
        assert torch.equal(load(target)(clips_for()), encoder(clips_for()))


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.pth"
    write_foreign(path, random_encoder("tiny"))
    with pytest.raises(InputError, match=r"weights of another model: .* \(\d+ entries differ\)"):
        import_backbone(path, "r2plus1d")  # the same names, other shapes
    with pytest.raises(InputError, match="is missing"):
        import_backbone(path, "r3d-18")
    state = torch.load(path, weights_only=True)["state_dict"]
    del state["module.encoder_q.0.bn1.bias"]
    torch.save(state, path)
    with pytest.raises(InputError, match=r"bn1.bias is missing \(1 entries"):
        import_backbone(path, "tiny")
    torch.save({"args": argparse.Namespace(lr=1), "state_dict": state}, path)
    with pytest.raises(InputError, match="holds objects other than tensors"):
        import_backbone(path, "tiny")
    path.write_bytes(b"nonsense")
    with pytest.raises(InputError, match="foreign.pth"):
        import_backbone(path, "tiny")
    torch.save({"epoch": 1}, path)
    with pytest.raises(InputError, match="holds no state dict"):
        import_backbone(path, "tiny")
