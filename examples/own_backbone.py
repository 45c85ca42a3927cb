"""Pretraining a network of your own: python examples/own_backbone.py VIDEOS RUN

A backbone is any function without arguments that returns a module from clips [N, 3, T, H, W] to
features [N, F] or [N, F, t, h, w]. The command line takes it by name, from the folder with the
file: fastdual pretrain VIDEOS --run RUN --recipe tiny --backbone own_backbone:net
"""

import sys

from torch import nn

from fastdual.cli import cli


def net() -> nn.Module:
    """Three convolutions over space and time."""
    return nn.Sequential(
        nn.Conv3d(3, 16, (3, 5, 5), stride=(1, 4, 4), padding=(1, 2, 2), bias=False),
        nn.BatchNorm3d(16),
        nn.ReLU(),
        nn.Conv3d(16, 32, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm3d(32),
        nn.ReLU(),
        nn.Conv3d(32, 64, 3, stride=2, padding=1),
    )


if __name__ == "__main__":
    videos, run = sys.argv[1:]
    small = ["--batch-size", "8", "--epochs", "2", "--device", "cpu"]
    named = ["--recipe", "tiny", "--backbone", "own_backbone:net"]
    cli(["pretrain", videos, "--run", run, *named, *small])
