"""The loader in a loop of your own: python examples/loader_in_a_loop.py VIDEOS

VIDEOS is a folder, an index, a pack, or a CSV file. A state says where in the data one is, so that
training goes on in the middle of an epoch and sees exactly the clips that would have followed.
"""

import sys
from itertools import islice

import torch
from torch import Tensor

import fastdual


def augment(view: Tensor) -> Tensor:
    """Mirror half of the views; [T, 3, H, W] in [0, 1], as torchvision's transforms take them."""
    view = view.flip(-1) if torch.rand(()) < 0.5 else view
    return (view - 0.45) / 0.225


how = {"frames_per_clip": 8, "frame_stride": 2, "crop_size": 48, "batch_size": 4}
loader = fastdual.ClipLoader(sys.argv[1], num_views=3, transform=augment, seed=7, **how)
print(f"{len(loader.index)} videos, {len(loader)} batches an epoch, {loader.decode_choice.decoder}")
for batch in islice(loader, 2):
    print(tuple(batch.clips.shape), batch.labels.tolist(), loader.index.path(batch.video_ids[0]))
state = loader.state_dict()
following = next(iter(loader))
loader.close()

with fastdual.ClipLoader(loader.index, num_views=3, transform=augment, seed=7, **how) as again:
    again.load_state_dict(state)
    resumed = next(iter(again))
print("resumed with the same clips:", torch.equal(following.clips, resumed.clips))
