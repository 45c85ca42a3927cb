"""The baselines of bench.method see what they are named for."""

import torch

from bench.parts.method.contestants import BASELINES


def test_baselines_see_what_they_are_named_for() -> None:
    still = torch.rand(2, 3, 1, 24, 24).expand(-1, -1, 4, -1, -1)
    assert BASELINES["frame difference"]()(still).abs().max() == 0
    brighter = still + torch.arange(4.0).view(1, 1, 4, 1, 1)
    assert torch.allclose(BASELINES["frame difference"]()(brighter), torch.tensor(1.0))
    mean, expected = BASELINES["mean frame"]()(brighter), BASELINES["mean frame"]()(still) + 1.5
    assert torch.allclose(mean, expected, atol=1e-6)
