"""One way to load: runs, checkpoints and exports, with heads or without, trained or not."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import torch

import fastdual
from fastdual.evaluate.embed import EmbedOptions, embed
from fastdual.model.dual import create_model
from fastdual.run.checkpoint import checkpoint_path, load_checkpoint, save_checkpoint
from fastdual.weights.export import export_safetensors
from fastdual.weights.load import load, load_network
from tests.evaluate.small import small_checkpoint, small_config, small_index
from tests.runs import differences, invoke
from tests.weights.encoders import clips_for


def test_checkpoint_loads_as_its_backbone() -> None:
    encoder = fastdual.load(small_checkpoint())
    model = load_network(small_checkpoint()).model
    with torch.inference_mode():
        assert torch.equal(encoder(clips_for(size=64)), model.features(clips_for(size=64)))


def test_exported_file_stands_for_its_run_in_evaluations(tmp_path: Path) -> None:
    target = tmp_path / "x.safetensors"
    done = invoke(["export", str(small_checkpoint()), "-o", str(target)])
    assert done.exit_code == 0, done.output
    clip = small_config().clip
    shape = f"{clip.frames_per_clip}x{clip.crop_size}x{clip.crop_size}"
    assert f"tiny, clips {shape}, stride {clip.frame_stride}" in done.stdout
    options = EmbedOptions(clips_per_video=1, num_workers=1)
    sets = [
        embed(load_network(source), small_index(), splits=["test"], options=options)
        for source in (small_checkpoint(), target)
    ]
    assert np.array_equal(sets[0].features, sets[1].features)


def test_run_folder_and_file_give_the_model_that_was_saved(tmp_path: Path) -> None:
    file = checkpoint_path(tmp_path / "checkpoints", 3)
    file.parent.mkdir()
    shutil.copy(small_checkpoint(), file)
    saved = load_checkpoint(file)["model"]
    for path in (tmp_path, file):
        network = load_network(path)
        assert network.config == small_config()
        assert not network.model.training
        assert differences(dict(network.model.state_dict()), dict(saved)) == []
        assert network.weights_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_random_weights_are_those_that_the_run_began_with(tmp_path: Path) -> None:
    torch.manual_seed(5)
    begun = create_model(small_config(seed=5))
    state = {"config": small_config(seed=5).to_dict(), "model": begun.state_dict()}
    save_checkpoint(tmp_path / "step-00000001.pt", state)
    export_safetensors(load(tmp_path), tmp_path / "x.safetensors")
    after = torch.get_rng_state()
    whole = load_network(tmp_path, random_weights=True)
    assert whole.weights_sha256 == "random weights, seed 5"
    assert differences(dict(whole.model.state_dict()), dict(begun.state_dict())) == []
    backbone = dict(begun.backbone.state_dict())
    for path in (tmp_path, tmp_path / "x.safetensors"):
        encoder = load_network(path, heads=False, random_weights=True).encoder
        assert encoder.weights_sha256 == "random weights, seed 5"
        assert differences(dict(encoder.backbone.state_dict()), backbone) == []
    other = load_network(tmp_path, heads=False, random_weights=True, seed=6).encoder
    assert other.weights_sha256 == "random weights, seed 6"
    assert differences(dict(other.backbone.state_dict()), backbone) != []
    assert torch.equal(torch.get_rng_state(), after)  # a caller's own draws are left alone
