"""Where the ops run, and that they need no Triton."""

import subprocess
import sys

import pytest
import torch
from torch._subclasses import FakeTensorMode

from fastdual.kernels import backend
from fastdual.kernels.backend import MAX_KERNEL_DIM, device_of, has_triton, runs_triton


@pytest.mark.parametrize(
    ("dtype", "interpretable"),
    [
        (torch.float32, True),
        (torch.float16, True),
        (torch.bfloat16, False),
        (torch.float64, False),
    ],
)
def test_kernels_run_on_a_cpu_only_where_they_are_interpreted(
    dtype: torch.dtype, interpretable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.zeros(2, 3, dtype=dtype)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert not runs_triton(x)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert runs_triton(x) == (interpretable and has_triton())
    assert not runs_triton(torch.zeros(2, MAX_KERNEL_DIM + 1, dtype=dtype))


@pytest.mark.parametrize(("capability", "runs"), [(7, False), (8, True), (12, True)])
def test_kernels_run_on_no_gpu_that_is_too_small_for_their_tiles(
    capability: int, runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(backend, "capability_of", lambda device: capability)
    with FakeTensorMode():
        x = torch.zeros(2, 3, device="cuda:1")
    assert runs_triton(x) == (runs and has_triton())


def test_import_needs_no_triton() -> None:
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch, fastdual.kernels.contrastive as k\n"
        "i = torch.arange(3); x = torch.randn(3, 8)\n"
        "print(k.contrastive_loss(x, x, i, i, temperature=0.1).ndim)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"


def test_the_guard_of_a_device_is_torchs_own() -> None:
    assert isinstance(device_of(torch.zeros(1)), torch.cuda.device_of)
