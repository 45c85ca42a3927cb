"""Checkpoints of other code: the layouts that are known, and refusals."""

import argparse
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
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
    assert dict(report.left) == {"encoder_q.2": 1, "encoder_k.0": count, "queue": 1}
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
    with pytest.raises(InputError, match="none of its .* name the backbone that it holds"):
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


def wrapped(state: dict[str, Tensor], wrap: str) -> dict[str, Any]:
    """A state dict as other programs nest it and name it."""
    if wrap == "compiled parts":  # torch.compile of single blocks
        return {k.replace("layer2.", "layer2._orig_mod."): v for k, v in state.items()}
    if wrap == "nested":
        return {"net": {"video": {"encoder": state}}, "optimizer": {"state": {0: torch.ones(3)}}}
    if wrap == "without counts":
        return {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    return {f"{wrap}{k}": v for k, v in state.items()}


@pytest.mark.parametrize(
    "wrap",
    ["encoder_q.", "_orig_mod.", "module.module.", "module._orig_mod.net.trunk.", "compiled parts",
     "nested", "without counts", "visual.", "model.backbone.0.", "x.y.z."],
)  # fmt: skip
def test_any_wrapping_of_names_is_found(wrap: str, tmp_path: Path) -> None:
    encoder, path = random_encoder("tiny"), tmp_path / "foreign.pth"
    state = wrapped(dict(encoder.backbone.state_dict()), wrap) | {"fc.weight": torch.zeros(7, 4)}
    torch.save(state, path)
    back, report = import_backbone(path, "tiny")
    assert report.left["fc"] == 1
    weights = back.backbone.state_dict()
    for name, value in encoder.backbone.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(weights[name], value)


def test_safetensors_of_other_code_are_read_too(tmp_path: Path) -> None:
    encoder, path = random_encoder("tiny"), tmp_path / "foreign.safetensors"
    state = {f"trunk.{k}": v for k, v in encoder.backbone.state_dict().items()}
    safetensors.torch.save_file(state, path)
    _, report = import_backbone(path, "tiny")
    assert (report.prefix, report.taken) == ("trunk.", len(state))


def test_two_networks_are_refused_unless_one_is_named(tmp_path: Path) -> None:
    state, path = random_encoder("tiny").backbone.state_dict(), tmp_path / "foreign.pth"
    torch.save({f"{tower}.{k}": v for tower in ("rgb", "flow") for k, v in state.items()}, path)
    with pytest.raises(InputError, match="2 networks .* 'rgb.', 'flow.'; choose one with --prefix"):
        import_backbone(path, "tiny")
    for prefix in ("flow", "flow."):
        assert import_backbone(path, "tiny", prefix=prefix)[1].prefix == "flow."
    with pytest.raises(InputError, match="none of its"):
        import_backbone(path, "tiny", prefix="depth")
    torch.save({**state, **{f"module.{k}": v for k, v in state.items()}}, path)
    with pytest.raises(InputError, match="holds both 'conv1.*' and 'module.conv1.*'"):
        import_backbone(path, "tiny")


def broken(value: Tensor, how: str) -> Tensor:
    bits = {"nan": torch.nan, "inf": -torch.inf}
    if how in bits:
        return torch.full_like(value, bits[how])
    if how == "sparse":
        return value.to_sparse()
    if how == "stretched":  # four bytes that say they are of any size
        return torch.ones(()).expand(value.shape)
    return value.to({"int": torch.int64, "complex": torch.complex64, "bool": torch.bool}[how])


@pytest.mark.parametrize("how", ["nan", "inf", "int", "complex", "bool", "sparse", "stretched"])
def test_weights_that_are_no_finite_real_numbers_are_refused(how: str, tmp_path: Path) -> None:
    state, path = dict(random_encoder("tiny").backbone.state_dict()), tmp_path / "foreign.pth"
    name = next(name for name, value in state.items() if value.ndim == 5)
    state[name] = broken(state[name], how)
    torch.save(state, path)
    with pytest.raises(InputError, match=rf"foreign.pth: '?{name}"):
        import_backbone(path, "tiny")


def test_a_part_that_the_network_does_not_have_is_refused(tmp_path: Path) -> None:
    """As S3D-G's gates beside the weights of S3D: another network of the same names."""
    state, path = dict(random_encoder("tiny").backbone.state_dict()), tmp_path / "foreign.pth"
    part = next(iter(state)).partition(".")[0]
    torch.save(state | {f"{part}.gate.weight": torch.zeros(2)}, path)
    with pytest.raises(InputError, match=rf"{part}.gate.weight is unknown"):
        import_backbone(path, "tiny")


def test_compressed_files_are_not_unpacked(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.pth", tmp_path / "small.pth"
    torch.save({"conv1.weight": torch.zeros(1 << 20)}, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for entry in source.infolist():
            out.writestr(entry.filename, source.read(entry))
    assert path.stat().st_size < 10_000
    with pytest.raises(InputError, match="small.pth: damaged, .*compressed records"):
        import_backbone(path, "tiny")


def test_the_clips_of_other_code_are_known_or_given_and_stored(tmp_path: Path) -> None:
    path, target = tmp_path / "r3d.pth", tmp_path / "x.safetensors"
    state = dict(random_encoder("r3d-18").backbone.state_dict())
    export = ["export", str(path), "--backbone", "r3d-18", "-o", str(target)]
    torch.save(state | {"fc.weight": torch.zeros(400, 512), "fc.bias": torch.zeros(400)}, path)
    done = invoke(export)
    assert done.exit_code == 0, done.output
    assert "clips 16x112x112, stride 2, from frames of 128x171; mean 0.432, 0.395" in done.stdout
    assert "warning" not in done.stderr
    clip = load(target).config.clip
    assert (clip.mean, clip.std[0]) == ((0.43216, 0.394666, 0.37645), 0.22803)
    torch.save(state, path)  # the same network without its classifier: it may be anybody's
    assert "does not say on which clips it was trained" in invoke(export).stderr
    given = ["clip.frames_per_clip=32", "clip.crop_size=128", "clip.resize_height=128"]
    given += ["clip.mean=0.5,0.5,0.5", "clip.std=0.25,0.25,0.25", "clip.frame_stride=1"]
    done = invoke([*export, *(word for text in given for word in ("--set", text))])
    assert done.exit_code == 0, done.output
    encoder = load(target)
    assert encoder.config.clip.clip_shape == (32, 128, 128)
    frames = torch.full((1, 32, 140, 180, 3), 255, dtype=torch.uint8)
    white = torch.full((1, 3, 32, 128, 128), 2.0)
    torch.testing.assert_close(encoder.preprocess(frames), white)
    for words, text in (
        (["--set", "run.seed=1"], "only keys of clip"),
        (["--set", "clip.x=1"], "unk"),
    ):
        refused = invoke([*export, *words])
        assert (refused.exit_code, text in refused.stderr) == (2, True)
