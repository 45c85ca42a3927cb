"""An action classifier on a backbone, and its training step.

Shapes: B videos of a batch, N clips, C classes.
"""

import torch
from torch import Tensor, nn

from fastdual.loaders.loader import ClipBatch
from fastdual.training.execution import Execution
from fastdual.training.loop import StepOutput


class Classifier(nn.Module):
    """A backbone, pooled, under one linear layer; frozen, it stays in evaluation mode."""

    def __init__(self, backbone: nn.Module, *, num_classes: int, freeze: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(int(backbone.feature_dim), num_classes)  # type: ignore[arg-type]
        # As the paper's code; torch's own deviation would be about 0.026, with biases.
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        self.freeze = freeze
        backbone.requires_grad_(not freeze)

    def train(self, mode: bool = True) -> "Classifier":
        """Set the mode, but keep a frozen backbone in evaluation: its statistics would move."""
        super().train(mode)
        if self.freeze:
            self.backbone.eval()
        return self

    def forward(self, clips: Tensor) -> Tensor:
        """Return logits [N, C] of clips [N, 3, T, H, W]."""
        logits: Tensor = self.head(self.backbone(clips).mean(dim=(2, 3, 4)))
        return logits


class ClassifyStep:
    """What a step computes: the cross-entropy of one clip of each video."""

    def __init__(self, model: nn.Module, execution: Execution) -> None:
        self.model = execution.compile(model)
        self.execution = execution

    def __call__(self, batch: ClipBatch) -> StepOutput:
        """Return loss and metrics of a batch of clips [B, 1, 3, T, H, W]."""
        self.execution.begin_step()
        with torch.autocast(self.execution.device.type, torch.bfloat16, self.execution.bf16):
            logits = self.model(batch.clips.flatten(0, 1)).float()
        loss = nn.functional.cross_entropy(logits, batch.labels)
        top1 = (logits.detach().argmax(dim=1) == batch.labels).float().mean()
        return StepOutput(loss, {"train_top1": top1})
