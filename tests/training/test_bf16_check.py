"""The self-check of bf16 convolutions notices what it is there for."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastdual.backbones import create_backbone
from fastdual.config import resolve
from fastdual.errors import InputError
from fastdual.training.bf16_check import check_bf16_convolutions, require_bf16
from fastdual.training.execution import Execution
from fastdual.training.pretrain import Pretraining
from tests.evaluate.small import small_checkpoint, small_index_file
from tests.runs import invoke

CLIP = (4, 16, 16)
CLIPS = (2, *CLIP)
CPU = torch.device("cpu")


def test_every_kind_of_convolution_is_tried_once_and_the_network_left_alone() -> None:
    backbone = create_backbone("r2plus1d", clip_shape=CLIP)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    report = check_bf16_convolutions(backbone, CLIPS, CPU)
    # 20 of 4 stages and the stem, less those that repeat a shape.
    kinds = [layer for layer in backbone.modules() if isinstance(layer, nn.Conv3d)]
    assert 0.7 * len(kinds) < report.checked <= len(kinds)
    assert report.slowdown > 0
    assert backbone.training
    assert not any(layer._forward_pre_hooks for layer in kinds)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def plant(monkeypatch: pytest.MonkeyPatch, fault: Any) -> None:
    """Let conv3d in bf16 do as the faulty releases did."""
    right = nn.functional.conv3d

    def wrong(clips: Tensor, weight: Tensor, *options: Any) -> Tensor:
        output = right(clips.float(), weight.float(), *options).to(clips.dtype)
        return fault(output) if clips.dtype == torch.bfloat16 else output

    monkeypatch.setattr(nn.functional, "conv3d", wrong)


def infinite_gradient(output: Tensor) -> Tensor:
    output.register_hook(lambda gradient: gradient * torch.inf)
    return output


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda output: output.roll(1, dims=1), "output is off by"),
        (infinite_gradient, "gradient of the weight is off by nan"),
    ],
)
def test_wrong_convolutions_are_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, fault: Any, words: str
) -> None:
    backbone = create_backbone("tiny", clip_shape=CLIP)
    plant(monkeypatch, fault)
    report = check_bf16_convolutions(backbone, CLIPS, CPU)
    assert any(words in line for line in report.wrong), report.wrong
    with pytest.raises(InputError, match=r"conv1.spatial_conv \(2, 3, 4, 16, 16\).*precision=fp32"):
        require_bf16(backbone, CLIPS, CPU)


def test_convolutions_are_tried_with_as_many_clips_as_fp32_has_memory_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right, seen = nn.functional.conv3d, set()

    def small(clips: Tensor, weight: Tensor, *options: Any) -> Tensor:
        seen.add(len(clips))
        if clips.dtype == torch.float32 and clips[0].numel() * len(clips) > 40_000:
            raise torch.OutOfMemoryError("tried to allocate 4 GiB")
        return right(clips.float(), weight.float(), *options).to(clips.dtype)

    backbone = create_backbone("tiny", clip_shape=CLIP)
    few = check_bf16_convolutions(backbone, CLIPS, CPU)
    monkeypatch.setattr(nn.functional, "conv3d", small)
    report = check_bf16_convolutions(backbone, (16, *CLIP), CPU)
    assert (report.wrong, report.checked) == ((), few.checked)
    assert seen == {1, 8, 16}  # 1: the forward that tells the shapes


@pytest.mark.parametrize(
    ("settings", "clips"),
    [
        ({}, 4 * 6),
        ({"model.framework": "moco"}, 3 * 6),
        ({"optimiser.accumulate_chunks": 4}, 4 * 2),
    ],
)
def test_the_batch_that_is_tried_is_that_of_a_forward(settings: dict, clips: int) -> None:
    config = resolve([], [f"{key}={value}" for key, value in settings.items()]).config
    assert Pretraining(config).clips_per_forward(6) == clips


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_no_kind_of_training_starts_in_a_wrong_bf16(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    plant(monkeypatch, infinite_gradient)
    in_bf16 = Execution(CPU, bf16=True, compile_mode=None)
    monkeypatch.setattr("fastdual.training.start.choose_execution", lambda *_: in_bf16)
    run, data = tmp_path / "run", str(small_index_file())
    source = [str(small_checkpoint())] if kind == "finetune" else []
    recipe = ["--recipe", "tiny"] if kind == "pretrain" else []
    refused = invoke([kind, *source, data, "--run", str(run), *recipe, "--batch-size", "4"])
    assert refused.exit_code == 2
    assert "bf16 convolutions are computed wrongly here" in refused.stderr
    assert not run.exists()


def test_the_rounding_of_bf16_alone_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, lambda output: output)
    report = check_bf16_convolutions(create_backbone("tiny", clip_shape=CLIP), CLIPS, CPU)
    assert report.wrong == ()


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["r2plus1d", "r2plus1d-18", "s3d"])
def test_bf16_of_this_gpu_is_right(name: str) -> None:
    device, shape = torch.device("cuda"), (64, 16, 112, 112)
    report = check_bf16_convolutions(create_backbone(name).to(device), shape, device)
    assert report.wrong == ()
