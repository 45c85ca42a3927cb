"""The reference of bench.train computes in plain float32, also where torch allows tf32."""

from typing import Any

import pytest
import torch

from bench.parts.train import contestants
from bench.parts.train.case import Case, Size
from bench.parts.train.contestants import Contestant, reference_losses


def allowed() -> list[bool]:
    return [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32]


def test_tf32_is_off_in_the_reference_and_on_in_the_papers_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Torch allows it in cuDNN's convolutions unless it is told otherwise."""
    case = Case("tiny", Size(batch=2, frames=8, crop=32), torch.device("cpu"))
    take_step, seen = contestants.take_step, []

    def noting(*arguments: Any) -> Any:
        seen.append(allowed())
        return take_step(*arguments)

    monkeypatch.setattr(contestants, "take_step", noting)
    before = allowed()
    paper = Contestant("paper", case)
    paper.step()
    reference_losses(paper, 1)
    assert seen == [[True, True], [False, False]]
    assert allowed() == before
