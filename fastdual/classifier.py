"""An action classifier on a backbone: its step in training and its test on several clips a video.

Shapes: B videos of a batch, K clips a test video, C classes.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from fastdual.evaluate.classify import Classification
from fastdual.evaluate.embed import CLIPS_AT_ONCE, Progress
from fastdual.execution import Execution
from fastdual.finetune_config import FinetuneConfig
from fastdual.loaders.errors import FailureError
from fastdual.loaders.index import VideoIndex
from fastdual.loaders.loader import ClipBatch, ClipLoader
from fastdual.loaders.plan import ClipSpec
from fastdual.objective import StepOutput


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


def check_frozen(backbone: nn.Module, frozen: Mapping[str, Tensor]) -> None:
    """Make sure that nothing of a frozen backbone moved, to the last bit.

    Raises:
        FailureError: names the first weight or statistic that did.
    """
    state = backbone.state_dict()
    moved = [name for name in frozen if not torch.equal(state[name].cpu(), frozen[name].cpu())]
    if moved:
        raise FailureError(
            f"{len(moved)} frozen weights or statistics moved, first {moved[0]}: this is no linear "
            "probe, so it is not tested; please report it"
        )


def classify(
    model: Classifier,
    index: VideoIndex,
    config: FinetuneConfig,
    execution: Execution,
    *,
    progress: Progress | None = None,
) -> Classification:
    """Mean softmax over the clips of each test video (METHOD.md section 6).

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
    return Classification(
        scores=torch.stack([rows[video] for video in videos]).numpy(),
        labels=index.labels[videos],
        groups=tuple(index.groups[video] for video in videos),
        class_names=index.class_names,
    )
