"""Embeddings that follow labels, with SupCon: python examples/supcon.py VIDEOS

VIDEOS has a folder for each class. Rows with the same label attract each other; a negative label
means none. SupConLoss has the call and the numbers of pytorch-metric-learning.
"""

import sys

import torch

import fastdual
from fastdual.backbones import create_backbone
from fastdual.losses import SupConLoss

torch.manual_seed(0)
clips = {"frames_per_clip": 8, "frame_stride": 2, "crop_size": 32, "jitter_probability": 0.0}
loader = fastdual.ClipLoader(sys.argv[1], batch_size=16, **clips)
backbone = create_backbone("tiny", clip_shape=(8, 32, 32))
head = torch.nn.Linear(backbone.feature_dim, 64)
criterion = SupConLoss(temperature=0.2)
optimizer = torch.optim.AdamW([*backbone.parameters(), *head.parameters()], lr=3e-3)
print(f"{len(loader.index)} videos of {len(loader.index.class_names)} classes")

for epoch in range(6):
    total = 0.0
    for batch in loader:
        rows = batch.clips.flatten(0, 1)  # both views of each video
        labels = batch.labels.repeat_interleave(2)
        loss = criterion(head(backbone(rows).mean(dim=(2, 3, 4))), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    print(f"epoch {epoch} loss {total / len(loader):.3f}")
loader.close()
