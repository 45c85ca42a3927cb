"""A small training on real videos, for every test of the loop and of its parts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fastdual.config import PretrainConfig, resolve
from fastdual.distributed.world import World
from fastdual.loaders.index import VideoIndex, load_index
from fastdual.model.dual import create_model
from fastdual.run.folder import RunFolder
from fastdual.training.execution import choose_execution
from fastdual.training.loop import Training
from fastdual.training.pretrain import Pretraining
from fastdual.training.start import create_loader, create_training
from tests.runs import QUICK, write_index

NUM_VIDEOS = 10


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> VideoIndex:
    return load_index(write_index(tmp_path_factory.mktemp("data"), count=NUM_VIDEOS))


@pytest.fixture
def make_training(index: VideoIndex, tmp_path: Path) -> Iterator[Any]:
    made: list[Training] = []

    def make(**settings: Any) -> Training:
        values = QUICK | {key.replace("__", "."): value for key, value in settings.items()}
        config: PretrainConfig = resolve([], [f"{k}={v}" for k, v in values.items()]).config
        execution = choose_execution(config.run)
        torch.manual_seed(config.run.seed)
        folder = RunFolder(tmp_path / "run")
        loader = create_loader(index, None, config, execution, World(), folder)
        made.append(create_training(Pretraining(config), create_model(config), loader, execution))
        return made[-1]

    yield make
    for training in made:
        training.loader.close()
