"""Backbones of the user's own, and what is said when they do not fit."""

from pathlib import Path

import pytest
import torch
from torch import nn

from fastdual.backbones import create_backbone
from fastdual.errors import InputError

MODULE = """
import torch
from torch import nn

class Maps(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(3, 24, 3, stride=2)
        self.norm = nn.BatchNorm3d(24)
    def forward(self, x):
        return self.norm(self.conv(x))

class Pooled(Maps):
    def forward(self, x):
        return super().forward(x).mean((2, 3, 4))

class Classifier(Maps):
    def forward(self, x):
        return super().forward(x).mean((2, 3, 4))[0]

class Pair(Maps):
    def forward(self, x):
        return x, x

class Square(Maps):
    def forward(self, x):
        return x.reshape(2, 3, 1, 1, 1, 12345)

def needs_argument(width):
    return Maps()

def not_a_module():
    return 7

value = 3
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_nets.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return "own_nets"


def test_own_network_from_the_current_folder(own_module: str) -> None:
    backbone = create_backbone(f"{own_module}:Maps", clip_shape=(8, 32, 32))
    assert backbone.feature_dim == 24
    assert backbone(torch.zeros(1, 3, 8, 32, 32)).shape == (1, 24, 3, 15, 15)


def test_pooled_output_is_given_a_time_and_a_place(own_module: str) -> None:
    backbone = create_backbone(f"{own_module}:Pooled", clip_shape=(8, 32, 32))
    assert backbone.feature_dim == 24
    assert backbone(torch.zeros(2, 3, 8, 32, 32)).shape == (2, 24, 1, 1, 1)


def test_dry_run_leaves_mode_and_statistics_alone(own_module: str) -> None:
    backbone = create_backbone(f"{own_module}:Maps", clip_shape=(8, 32, 32))
    norm = backbone.get_submodule("network.norm")
    assert isinstance(norm, nn.BatchNorm3d)
    assert norm.training
    assert torch.equal(norm.num_batches_tracked, torch.tensor(0))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module_here:Net", "cannot import 'no_such_module_here'"),
        ("own_nets:Missing", "own_nets has no function or class 'Missing'"),
        ("own_nets:value", "own_nets has no function or class 'value'"),
        ("own_nets:", "own_nets has no function or class ''"),
        ("own_nets:needs_argument", "calling it without arguments failed"),
        ("own_nets:not_a_module", "it returned type int, not a torch.nn.Module"),
        ("own_nets:Classifier", r"must give features \[2, F\] or \[2, F, t, h, w\], not \[24\]"),
        ("own_nets:Pair", "not tuple"),
        ("own_nets:Square", r"it fails on clips \[2, 3, 8, 32, 32\]"),
    ],
)
def test_what_cannot_be_used_is_named(own_module: str, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        create_backbone(name, clip_shape=(8, 32, 32))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
