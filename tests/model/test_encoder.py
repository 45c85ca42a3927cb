"""The encoder: its preprocessing is the loader's; it embeds videos, lists, folders, frames."""

from pathlib import Path

import pytest
import torch

import fastdual
from fastdual.errors import FailureError, InputError
from fastdual.evaluate.embed import EmbedOptions, embed
from fastdual.loaders.index import index_files
from fastdual.loaders.loader import ClipLoader
from fastdual.loaders.plan import ClipSpec
from fastdual.model.encoder import VideoEncoder
from fastdual.weights.load import load_network
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
    with pytest.raises(ValueError, match=r"must be uint8 \[N, T, 3, H, W\]"):
        encoder.preprocess(torch.zeros(1, 2, 4, 4, 3))


def small_encoder() -> VideoEncoder:
    return fastdual.load(small_checkpoint())


def test_a_video_a_list_and_a_folder_have_the_features_of_fastdual_embed() -> None:
    index, encoder = small_index(), small_encoder()
    network = load_network(small_checkpoint(), heads=False)
    truth = embed(network, index, options=EmbedOptions(clips_per_video=2, num_workers=1))
    how = {"clips_per_video": 2, "num_workers": 1}
    ours = encoder.embed(index, **how)
    assert torch.equal(ours, torch.from_numpy(truth.features))
    assert ours.device.type == "cpu" and not ours.requires_grad
    files = [index.path(2), str(index.path(0)), index.path(2)]
    some = encoder.embed(files, **how)
    assert torch.allclose(some, ours[[2, 0, 2]], atol=1e-6)
    one = encoder.embed(str(index.path(0)), **how)
    assert one.shape == (encoder.feature_dim,) and torch.allclose(one, ours[0], atol=1e-6)
    folder = encoder.embed(str(index.root), **how)
    assert folder.shape == (len(fastdual.open_index(index.root)), encoder.feature_dim)


def test_frames_are_taken_as_torchcodec_and_as_numpy_lay_them_out() -> None:
    index, encoder = small_index(), small_encoder()
    clip = encoder.config.clip
    numbers = torch.arange(clip.frames_per_clip)
    pictures = torch.from_numpy(read_frames(index.path(0), numbers.numpy()))  # [T, H, W, 3]
    planes = pictures.permute(0, 3, 1, 2)
    assert torch.equal(encoder.preprocess(pictures[None]), encoder.preprocess(planes[None]))
    both = encoder.embed(torch.stack([planes, planes]))
    assert both.shape == (2, encoder.feature_dim)
    assert torch.allclose(encoder.embed(planes), both[0], atol=1e-6)
    assert torch.equal(encoder.embed(pictures.numpy()), encoder.embed(planes))
    with pytest.raises(ValueError, match=rf"12 frames, this network takes {len(numbers)} that lie"):
        encoder.embed(planes[:1].expand(12, -1, -1, -1))


def test_it_says_what_it_takes_and_gives() -> None:
    printed = repr(small_encoder())
    assert "tiny, clips [3, 8, 48, 48] at stride 4 -> 128 features, " in printed
    with pytest.raises(InputError, match="device 'gpu' is unknown; use cpu, cuda"):
        fastdual.load(small_checkpoint(), device="gpu")


def test_the_mode_of_the_network_does_not_matter_and_stays() -> None:
    encoder = small_encoder()
    video = small_index().path(0)
    how = {"clips_per_video": 1, "num_workers": 1}
    truth = encoder.embed(video, **how)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    encoder.train()
    assert torch.equal(encoder.embed(video, **how), truth) and encoder.training
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())


def test_a_video_that_cannot_be_embedded_is_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    with pytest.raises(InputError, match=r"bad\.mp4: is not a video"):
        small_encoder().embed([small_index().path(0), bad])


def test_a_video_damaged_since_it_was_indexed_is_named_not_replaced(tmp_path: Path) -> None:
    index = small_index()
    for path in index.paths[:3]:
        (tmp_path / Path(path).name).write_bytes((index.root / path).read_bytes())
    own = index_files(sorted(tmp_path.iterdir()))
    own.path(1).write_bytes(own.path(1).read_bytes()[:400])
    with pytest.raises(FailureError, match=own.path(1).name):
        small_encoder().embed(own, clips_per_video=1, num_workers=1)
