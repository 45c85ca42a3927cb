"""Heads of other code's networks: imported with the backbone, and measured as a run's are."""

from pathlib import Path

import pytest
import torch

from fastdual.config import PretrainConfig
from fastdual.model.dual import create_model
from fastdual.weights.load import load_network
from tests.runs import invoke
from tests.weights.encoders import clips_for

# As the paper's code names them in MoCo's form; its heads are convolutions over one place.
NAMES = {
    "backbone": "encoder_q.0", "clip_head.0": "encoder_q.2", "clip_head.2": "encoder_q.4",
    "segment_head": "series_proj_head",
}  # fmt: skip


def test_a_network_of_other_code_keeps_its_heads(tmp_path: Path) -> None:
    sizes = {"model.backbone": "tiny", "model.clip_dim": 24, "model.segment_dim": 10}
    config = PretrainConfig.from_dict({**sizes, "clip.num_segments": 4}, origin="test")
    torch.manual_seed(0)
    model, state = create_model(config).eval(), {}
    for key, value in model.state_dict().items():
        start = next(name for name in NAMES if key.startswith(f"{name}."))
        is_convolution = start.startswith("clip_head") and value.ndim == 2
        shaped = value[..., None, None, None] if is_convolution else value
        state[f"module.{NAMES[start]}{key.removeprefix(start)}"] = shaped
    file, target = tmp_path / "paper.pth.tar", tmp_path / "x.pt"
    torch.save({"epoch": 3, "state_dict": state}, file)
    export = ["export", str(file), "--backbone", "tiny", "-o", str(target)]
    done = invoke([*export, "--set", "clip.num_segments=4"])
    assert done.exit_code == 0, done.output
    assert "clip head and segment head taken" in done.stdout
    network = load_network(target)
    assert (network.config.model.clip_dim, network.config.model.segment_dim) == (24, 10)
    with torch.inference_mode():
        for ours, theirs in zip(network.model(clips_for()), model(clips_for()), strict=True):
            assert torch.equal(ours, theirs)

    no_heads = {k: v for k, v in state.items() if "encoder_q.0." in k}
    torch.save(no_heads, file)
    done = invoke(export)
    assert done.exit_code == 2
    assert "holds no clip head" in done.stderr and "-o x.safetensors" in done.stderr


@pytest.mark.parametrize("words", [[], ["--format", "checkpoint"]])
def test_a_run_needs_no_such_export(words: list[str], tmp_path: Path) -> None:
    done = invoke(["export", str(tmp_path / "x.pth"), "-o", str(tmp_path / "y.pt"), *words])
    assert done.exit_code == 2
    assert "add --backbone" in done.stderr
