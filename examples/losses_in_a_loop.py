"""A fused loss in a plain loop: python examples/losses_in_a_loop.py

NTXentLoss has the call and the numbers of lightly's and never stores the matrix of similarities,
so that the batch may be large. It needs torch alone; no video is read here.
"""

import torch
from torch import nn

from fastdual.losses import NTXentLoss

torch.manual_seed(0)
network = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128))
criterion = NTXentLoss(temperature=0.2)
optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
print(criterion)

for step in range(60):
    samples = torch.randn(512, 64)  # in place of images or clips
    view_0, view_1 = (samples + 0.5 * torch.randn_like(samples) for _ in range(2))
    loss = criterion(network(view_0), network(view_1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 0 or step == 59:
        print(f"step {step} loss {loss.item():.3f}")
