"""Fine-tuning, or training a linear classifier on a frozen backbone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import nn

from fastdual.config import FinetuneConfig
from fastdual.errors import InputError
from fastdual.loaders.index import VideoIndex
from fastdual.training.announce import describe_finetuning
from fastdual.training.classifier import Classifier, ClassifyStep
from fastdual.training.execution import Execution
from fastdual.training.task import Start


@dataclass(frozen=True)
class Finetuning:
    """The task of `fastdual.training.start` that trains a classifier.

    Args:
        config: Of the run.
        backbone: Where the classifier starts; it becomes part of it.
        num_classes: Classes of the videos.
    """

    config: FinetuneConfig
    backbone: nn.Module
    num_classes: int

    kind: ClassVar[Mapping[str, str]] = {"task": "finetune"}
    memory_remedy: ClassVar[str] = "use a smaller --batch-size"
    channel_multiple: ClassVar[None] = None

    @property
    def trains_backbone(self) -> bool:
        return not self.config.model.freeze

    def clips_per_forward(self, num_videos: int) -> int:
        return num_videos

    def check(self, index: VideoIndex, split: str | None, execution: Execution) -> None:
        check_labels(index, split, self.config.test.split)

    def create_model(self) -> Classifier:
        freeze = self.config.model.freeze
        return Classifier(self.backbone, num_classes=self.num_classes, freeze=freeze).train()

    def create_step(self, model: nn.Module, execution: Execution) -> tuple[nn.Module, ClassifyStep]:
        return nn.Module(), ClassifyStep(model, execution)

    def watches(self, steps_per_epoch: int, total_steps: int) -> tuple[()]:
        return ()

    def chances(self) -> dict[str, float]:
        return {"train_top1": 1 / self.num_classes}

    def describe(self, start: Start) -> list[str]:
        return describe_finetuning(self.config, start)


def check_labels(index: VideoIndex, train_split: str | None, test_split: str) -> None:
    """Make sure that every video of both splits has a class, and every class a training video.

    Raises:
        InputError: Names what is missing.
    """
    train, test = index.labels[index.split(train_split)], index.labels[index.split(test_split)]
    for name, labels in ((train_split or "all", train), (test_split, test)):
        unlabelled = int((labels < 0).sum())
        if unlabelled:
            raise InputError(
                f"{unlabelled} of the {len(labels)} videos of the split {name!r} have no label; "
                "index them from class folders or a CSV with a label column"
            )
    absent = np.setdiff1d(np.arange(len(index.class_names)), train)
    if len(absent):
        names = ", ".join(index.class_names[number] for number in absent[:5])
        raise InputError(
            f"{len(absent)} of {len(index.class_names)} classes have no training video, first "
            f"{names}; choose splits that share their classes, or leave them out of the index"
        )
