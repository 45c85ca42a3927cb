"""In training, the kernels and the eager losses give the same curve: on the demo's videos."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training.loss_curve import STEPS


@pytest.mark.timeout(600)
def test_kernels_train_along_the_curve_of_the_eager_losses(tmp_path: Path) -> None:
    path = tmp_path / "curves.pt"
    subprocess.run(
        [sys.executable, "-m", "tests.training.loss_curve", str(path)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        check=True,
        timeout=580,
    )
    found = torch.load(path)
    eager, fused = torch.tensor(found["eager"]), torch.tensor(found["fused"])
    assert len(eager) == len(fused) == len(found["errors"]) == STEPS
    # On the embeddings of every one of the steps: loss and gradients.
    assert 0 < max(found["errors"]) < 1e-4
    # Left alone, training magnifies that rounding: the curves stay together, not their last digits.
    difference = (fused - eager).abs() / eager
    assert difference[:3].max() < 1e-4
    means = [curve.view(-1, 50).mean(dim=1) for curve in (fused, eager)]
    torch.testing.assert_close(*means, rtol=0.05, atol=0)
    assert means[1][-1] < 0.9 * means[1][0]  # something was learned
