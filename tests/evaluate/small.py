"""A small set of real encoded videos, its index, and a checkpoint, made once in a test process."""

import functools
import os
import tempfile
from pathlib import Path

import torch

from fastdual.config import PretrainConfig, resolve
from fastdual.config.recipe import read_recipe
from fastdual.demo.videos import DemoSet, write_demo
from fastdual.loaders.index import VideoIndex, build_index, load_index
from fastdual.model.dual import create_model
from fastdual.run.checkpoint import save_checkpoint


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="fastdual-small-")  # removed when the process ends


@functools.cache
def small_index_file() -> Path:
    """24 videos of 8 classes, two scenes in `train` and one in `test`."""
    folder = Path(_folder().name)
    for _ in write_demo(folder / "videos", DemoSet(train_scenes=2, test_scenes=1, frames=40)):
        pass
    build_index(folder / "videos" / "videos.csv", folder / "index.h5", num_workers=1)
    return folder / "index.h5"


def small_index() -> VideoIndex:
    """The index of `small_index_file`."""
    return load_index(small_index_file())


def damage(video: Path) -> None:
    """Spoil a file behind the back of its index: same size, same time."""
    state = video.stat()
    video.write_bytes(bytes(state.st_size))
    os.utime(video, ns=(state.st_atime_ns, state.st_mtime_ns))


def small_config(seed: int = 0) -> PretrainConfig:
    """The tiny recipe."""
    return resolve([read_recipe("tiny")], (f"run.seed={seed}",)).config


@functools.cache
def small_checkpoint() -> Path:
    """A checkpoint of the tiny network with weights that no seed of a run gives."""
    config = small_config()
    torch.manual_seed(99)
    path = Path(_folder().name) / "step-00000007.pt"
    model = create_model(config)
    save_checkpoint(path, {"step": 7, "config": config.to_dict(), "model": model.state_dict()})
    return path
