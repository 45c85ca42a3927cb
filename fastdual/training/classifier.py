"""An action classifier on a backbone: its step in training and its test on several clips a video.

Shapes: B videos of a batch, K clips a test video, C classes.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from fastdual.config.finetune import FinetuneConfig
from fastdual.evaluate.classify import Classification
from fastdual.evaluate.embed import CLIPS_AT_ONCE, Progress, left_out
from fastdual.evaluate.features import LeftOut
from fastdual.loaders.index import VideoIndex
from fastdual.loaders.loader import ClipBatch, ClipLoader
from fastdual.loaders.plan import ClipSpec
from fastdual.training.execution import Execution
from fastdual.training.loop import StepOutput


class Classifier(nn.Module):
    """A backbone, pooled, under one linear layer; frozen, it stays in evaluation mode."""

    def __init__(self, backbone: nn.Module, *, num_classes: int, freeze: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(int(backbone.feature_dim), num_classes)  # type: ignore[arg-type]
        self.freeze = freeze
        backbone.requires_grad_(not freeze)

    def train(self, mode: bool = True) -> "Classifier":
        """As ever, but a frozen backbone does not follow: its statistics would move."""
        super().train(mode)
        if self.freeze:
            self.backbone.eval()
        return self

    def forward(self, clips: Tensor) -> Tensor:
        """Logits [N, C] of clips [N, 3, T, H, W]."""
        logits: Tensor = self.head(self.backbone(clips).mean(dim=(2, 3, 4)))
        return logits


class ClassifyStep:
    """What a step computes: the cross-entropy of one clip of each video."""

    def __init__(self, model: nn.Module, execution: Execution) -> None:
        self.model = execution.compile(model)
        self.execution = execution

    def __call__(self, batch: ClipBatch) -> StepOutput:
        """Loss and metrics of a batch of clips [B, 1, 3, T, H, W]."""
        self.execution.begin_step()
        with torch.autocast(self.execution.device.type, torch.bfloat16, self.execution.bf16):
            logits = self.model(batch.clips.flatten(0, 1)).float()
        loss = nn.functional.cross_entropy(logits, batch.labels)
        top1 = (logits.detach().argmax(dim=1) == batch.labels).float().mean()
        return StepOutput(loss, {"train_top1": top1})


def classify(
    model: Classifier,
    index: VideoIndex,
    config: FinetuneConfig,
    execution: Execution,
    *,
    progress: Progress | None = None,
) -> tuple[Classification, tuple[LeftOut, ...]]:
    """Mean softmax over the clips of each test video, and the videos that could not be tested.

    Raises:
        FailureError: too many videos cannot be decoded.
    """
    wanted = index.split(config.test.split)
    spec: ClipSpec = replace(config.clip, mode="evaluate")
    loader = ClipLoader(
        index,
        spec,
        batch_size=min(8, len(wanted)),
        split=config.test.split,
        device=str(execution.device),
        decode=config.data.decode,
        num_workers=config.data.num_workers,
        shuffle=False,
        drop_last=False,
    )
    rows: dict[int, Tensor] = {}
    model.eval()
    with loader, torch.inference_mode():
        for batch in loader:
            parts = torch.split(batch.clips.flatten(0, 1), CLIPS_AT_ONCE)
            chances = torch.cat([model(part).double().softmax(dim=1) for part in parts])
            means = chances.view(*batch.clips.shape[:2], -1).mean(dim=1).cpu()  # [B, C]
            rows.update(zip(batch.video_ids.tolist(), means, strict=True))
            if progress is not None:
                progress(len(rows), len(wanted), 0)
    videos = sorted(rows)
    classification = Classification(
        scores=torch.stack([rows[video] for video in videos]).numpy(),
        labels=index.labels[videos],
        groups=tuple(index.groups[video] for video in videos),
        class_names=index.class_names,
    )
    return classification, left_out(index, wanted, rows)
