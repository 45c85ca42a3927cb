"""Backbones in and out: the same features bit for bit, foreign layouts, refusals."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from torch import Tensor

import fastdual
from fastdual.backbones import create_backbone
from fastdual.cli import cli
from fastdual.config.sections import PretrainConfig
from fastdual.errors import InputError
from fastdual.evaluate.embed import EmbedOptions, embed, load_network
from fastdual.loaders.loader import ClipLoader
from fastdual.loaders.plan import ClipSpec
from fastdual.model.encoder import VideoEncoder
from fastdual.run.checkpoint import load_model
from fastdual.weights.load import (
    export_safetensors,
    export_torchvision,
    import_backbone,
    load,
)
from tests.evaluate.small import small_checkpoint, small_config, small_index
from tests.loaders.clips import read_frames


def random_encoder(name: str, seed: int = 3) -> VideoEncoder:
    torch.manual_seed(seed)
    config = PretrainConfig.from_dict({"model.backbone": name}, origin="test")
    return VideoEncoder(create_backbone(name), config, identity="ab" * 32).eval()


def clips_for(*, frames: int = 8, size: int = 32) -> Tensor:
    return torch.randn(2, 3, frames, size, size, generator=torch.Generator().manual_seed(1))


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


def test_checkpoint_loads_as_its_backbone() -> None:
    encoder = fastdual.load(small_checkpoint())
    model, _ = load_model(small_checkpoint())
    with torch.inference_mode():
        assert torch.equal(encoder(clips_for(size=64)), model.features(clips_for(size=64)))


def test_exported_file_stands_for_its_run_in_evaluations(tmp_path: Path) -> None:
    target = tmp_path / "x.safetensors"
    done = CliRunner().invoke(cli, ["export", str(small_checkpoint()), "-o", str(target)])
    assert done.exit_code == 0, done.output
    clip = small_config().clip
    shape = f"{clip.frames_per_clip}x{clip.crop_size}x{clip.crop_size}"
    assert f"tiny, clips {shape}, stride {clip.frame_stride}" in done.stdout
    options = EmbedOptions(clips_per_video=1, num_workers=1)
    sets = [
        embed(load_network(source), small_index(), split="test", options=options)
        for source in (small_checkpoint(), target)
    ]
    assert np.array_equal(sets[0].features, sets[1].features)


def test_export_is_refused_before_the_work_where_its_file_could_not_be_used(
    tmp_path: Path,
) -> None:
    for target, message in {
        tmp_path / "none" / "x.onnx": f"the folder {tmp_path / 'none'} does not exist",
        tmp_path / "x.pth": f"by its suffix; name it {tmp_path / 'x.safetensors'}",
    }.items():
        form = "onnx" if target.suffix == ".onnx" else "safetensors"
        words = ["export", str(small_checkpoint()), "--format", form, "-o", str(target)]
        done = CliRunner().invoke(cli, words)
        assert done.exit_code == 2 and message in done.stderr, done.output
    assert not list(tmp_path.iterdir())


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
    done = CliRunner().invoke(cli, arguments)
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


def test_damaged_and_foreign_exports_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(InputError, match="no such file"):
        load(path)
    export_safetensors(random_encoder("tiny"), path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="damaged, or not safetensors"):
        load(path)
    safetensors.torch.save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(InputError, match="not from fastdual export"):
        load(path)


def test_preprocessing_is_the_loaders() -> None:
    index, encoder = small_index(), fastdual.load(small_checkpoint())
    clip = encoder.config.clip
    spec = ClipSpec(
        mode="evaluate",
        clips_per_video=1,
        frames_per_clip=clip.frames_per_clip,
        frame_stride=clip.frame_stride,
        resize_height=clip.resize_height,
        resize_width=clip.resize_width,
        crop_size=clip.crop_size,
    )
    options = {"num_workers": 1, "shuffle": False, "decode": "pyav"}
    with ClipLoader(index, spec, batch_size=1, split="test", **options) as loader:
        batch = next(iter(loader))
    (frames,) = batch.plan.frames[0]
    pictures = read_frames(index.source(int(batch.video_ids[0])), frames)
    ours = encoder.preprocess(torch.from_numpy(pictures)[None])
    difference = (ours - batch.clips[:, 0]).abs()
    assert difference.mean() < 0.02  # of a deviation: about one grey level
    with pytest.raises(ValueError, match=r"must be uint8 \[N, T, H, W, 3\]"):
        encoder.preprocess(torch.zeros(1, 2, 4, 4, 3))
