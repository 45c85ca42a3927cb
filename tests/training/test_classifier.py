"""A classifier on a backbone that is trained, or frozen down to its statistics."""

import pytest
import torch

from fastdual.errors import FailureError
from fastdual.model.frozen import check_frozen, snapshot
from fastdual.training.classifier import Classifier
from fastdual.weights.load import load
from tests.evaluate.small import (
    small_checkpoint,
)


def test_the_classifier_begins_as_the_papers() -> None:
    torch.manual_seed(0)
    model = Classifier(load(small_checkpoint()).backbone, num_classes=400, freeze=False)
    assert model.head.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not bool(model.head.bias.any())


def test_moved_statistics_of_a_frozen_backbone_are_noticed() -> None:
    backbone = load(small_checkpoint()).backbone
    before = snapshot(backbone)
    model = Classifier(backbone, num_classes=3, freeze=True).train()
    model(torch.randn(2, 3, 8, 32, 32))
    check_frozen(backbone, before)
    backbone.train()
    model(torch.randn(2, 3, 8, 32, 32))
    with pytest.raises(FailureError, match=r"frozen weights or statistics moved, first .*running_"):
        check_frozen(backbone, before)
