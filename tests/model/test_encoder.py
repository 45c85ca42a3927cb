"""The encoder's preprocessing is that of the loader."""

import pytest
import torch

import fastdual
from fastdual.loaders.loader import ClipLoader
from fastdual.loaders.plan import ClipSpec
from tests.evaluate.small import small_checkpoint, small_index
from tests.loaders.clips import read_frames


def test_preprocessing_is_the_loaders() -> None:
    index, encoder = small_index(), fastdual.load(small_checkpoint())
    clip = encoder.config.clip
    spec = ClipSpec(
        mode="evaluate",
        clips_per_video=1,
        frames_per_clip=clip.frames_per_clip,
        frame_stride=clip.frame_stride,
        resize_height=clip.resize_height,
        resize_width=clip.resize_width,
        crop_size=clip.crop_size,
    )
    options = {"num_workers": 1, "shuffle": False, "decode": "pyav"}
    with ClipLoader(index, spec, batch_size=1, split="test", **options) as loader:
        batch = next(iter(loader))
    (frames,) = batch.plan.frames[0]
    pictures = read_frames(index.source(int(batch.video_ids[0])), frames)
    ours = encoder.preprocess(torch.from_numpy(pictures)[None])
    difference = (ours - batch.clips[:, 0]).abs()
    assert difference.mean() < 0.02  # of a deviation: about one grey level
    with pytest.raises(ValueError, match=r"must be uint8 \[N, T, H, W, 3\]"):
        encoder.preprocess(torch.zeros(1, 2, 4, 4, 3))
