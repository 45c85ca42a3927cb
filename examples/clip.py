"""Videos and text with CLIP's loss: python examples/clip.py VIDEOS

VIDEOS has a folder for each class; the text of a video is the name of its folder. ClipLoss is
called as open_clip's: features of both sides, L2-normalised, and a learned scale.
"""

import sys

import torch
from torch.nn.functional import normalize

import fastdual
from fastdual.backbones import create_backbone
from fastdual.losses import ClipLoss

torch.manual_seed(0)
clips = {"frames_per_clip": 8, "frame_stride": 2, "crop_size": 32, "jitter_probability": 0.0}
loader = fastdual.ClipLoader(sys.argv[1], num_views=1, batch_size=12, **clips)
names = loader.index.class_names
words = sorted({word for name in names for word in name.split("-")})
bags = torch.tensor([[float(word in name.split("-")) for word in words] for name in names])
backbone = create_backbone("tiny", clip_shape=(8, 32, 32))
of_video = torch.nn.Linear(backbone.feature_dim, 64)
of_text = torch.nn.Linear(len(words), 64)  # in place of a text encoder
logit_scale = torch.nn.Parameter(torch.tensor(2.0))
parameters = [*backbone.parameters(), *of_video.parameters(), *of_text.parameters(), logit_scale]
optimizer, criterion = torch.optim.AdamW(parameters, lr=3e-3), ClipLoss()

for epoch in range(6):
    total = 0.0
    for batch in loader:
        videos = normalize(of_video(backbone(batch.clips[:, 0]).mean(dim=(2, 3, 4))), dim=1)
        texts = normalize(of_text(bags[batch.labels]), dim=1)
        loss = criterion(videos, texts, logit_scale.exp())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    print(f"epoch {epoch} loss {total / len(loader):.3f}")
loader.close()
