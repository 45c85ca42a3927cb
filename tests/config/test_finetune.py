"""The paper's recipes of fine-tuning."""

from pathlib import Path

from fastdual.config import FinetuneConfig
from fastdual.config.recipe import read_recipe
from fastdual.run.folder import RunFolder
from fastdual.training.resume import ConfigRequest, resolve_finetune
from fastdual.weights.load import load
from tests.evaluate.small import (
    small_checkpoint,
    small_config,
)


def test_recipes_have_the_papers_settings(tmp_path: Path) -> None:
    for name, epochs, milestones in (
        ("paper-finetune-k400", 150, (50, 100)),
        ("paper-finetune-ucf101", 100, (30, 60, 80)),
    ):
        config: FinetuneConfig = resolve_finetune(
            RunFolder(tmp_path), ConfigRequest(recipe=name), load(small_checkpoint())
        ).config
        assert (config.schedule.epochs, config.schedule.milestones) == (epochs, milestones)
        optimiser = config.optimiser
        assert (optimiser.name, optimiser.momentum) == ("sgd", 0.9)
        assert (optimiser.learning_rate, optimiser.weight_decay) == (0.05, 1e-3)
        assert (config.data.batch_size, config.clip.frame_stride) == (16, 2)
        assert config.clip.clips_per_video == 10
        assert config.clip.jitter_probability == 0.8
        assert (
            config.clip.crop_size == small_config().clip.crop_size
        )  # the size that the network was pretrained on
        assert read_recipe(name)[1]["schedule.factor"] == 0.1
