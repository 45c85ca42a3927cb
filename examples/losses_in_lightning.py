"""Loader and loss under Lightning: python examples/losses_in_lightning.py VIDEOS

VIDEOS is a folder of videos. ClipDataset makes finished batches, so the DataLoader makes none. On
several GPUs each process yields its own part of a batch, and gather="all" contrasts it with the
rows of all processes; gradients reach them too.
"""

import sys

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import fastdual
from fastdual.backbones import create_backbone
from fastdual.losses import NTXentLoss


class SimClr(lightning.LightningModule):
    """A backbone and the contrast of two views of each video."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = create_backbone("tiny", clip_shape=(8, 32, 32))
        self.head = torch.nn.Linear(self.backbone.feature_dim, 64)
        self.criterion = NTXentLoss(temperature=0.2, gather="all")

    def embed(self, clips: Tensor) -> Tensor:
        return self.head(self.backbone(clips).mean(dim=(2, 3, 4)))

    def training_step(self, batch: fastdual.ClipBatch) -> Tensor:
        view_0, view_1 = batch.clips.unbind(1)
        loss = self.criterion(self.embed(view_0), self.embed(view_1))
        self.log("loss", loss, batch_size=len(batch))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


lightning.seed_everything(0)
clips = {"frames_per_clip": 8, "frame_stride": 2, "crop_size": 32}
dataset = fastdual.ClipDataset(sys.argv[1], batch_size=8, **clips)
trainer = lightning.Trainer(
    max_epochs=3, use_distributed_sampler=False, logger=False, enable_checkpointing=False,
    log_every_n_steps=1, enable_progress_bar=False,
)  # fmt: skip
trainer.fit(SimClr(), DataLoader(dataset, batch_size=None))
print(f"{trainer.global_step} steps, loss {float(trainer.callback_metrics['loss']):.3f}")
