"""Every backbone through the commands: pretrained and fine-tuned on real videos."""

from pathlib import Path

import pytest
import torch

from fastdual.backbones import backbone_names
from fastdual.evaluate.results import read_result
from fastdual.run.checkpoint import find_checkpoint, load_checkpoint
from fastdual.weights.load import load
from tests.evaluate.small import small_index_file
from tests.runs import invoke, read_log

# 8 frames of 32 x 32: the least that every one of them takes.
CLIP = {
    "clip.frames_per_clip": 8,
    "clip.frame_stride": 1,
    "clip.resize_height": 36,
    "clip.resize_width": 48,
    "clip.crop_size": 32,
    "data.batch_size": 8,
    "data.num_workers": 1,
    "schedule.epochs": 1,
    "schedule.milestones": "[]",
    "run.log_every_steps": 1,
    "run.device": "cpu",
}


def run(*words: str, **more: object) -> None:
    settings = CLIP | {key.replace("__", "."): value for key, value in more.items()}
    pairs = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    done = invoke([*words, *pairs])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("name", backbone_names())
def test_backbone_pretrains_and_fine_tunes(name: str, tmp_path: Path) -> None:
    pretrained, finetuned = tmp_path / "pretrained", tmp_path / "finetuned"
    data = str(small_index_file())
    run("pretrain", data, "--run", str(pretrained), model__backbone=name)
    steps = read_log(pretrained, "train")
    assert len(steps) == 2
    assert {"clip", "rank", "coherence"} < set(steps[-1])

    # A rate at which two steps move every weight and none of them far.
    tuned = {"clip.clips_per_video": 1, "optimiser.learning_rate": 1e-3}
    run("finetune", str(pretrained), data, "--run", str(finetuned), **tuned)
    result = read_result(finetuned / "results" / "finetune-test.json")
    assert result["splits"][0]["num_test"] == 8
    before = load(pretrained).backbone.state_dict()
    after = load_checkpoint(find_checkpoint(finetuned))["model"]
    assert all(not torch.equal(before[key], after[f"backbone.{key}"]) for key in before)
