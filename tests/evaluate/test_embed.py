"""Features of real encoded videos: what is averaged, in which order, with whose weights."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastdual.errors import FailureError, InputError
from fastdual.evaluate.embed import EmbedOptions, embed
from fastdual.evaluate.features import LeftOut
from fastdual.loaders.index import build_index
from fastdual.loaders.loader import ClipLoader
from fastdual.model.dual import create_model
from fastdual.model.encoder import VideoEncoder
from fastdual.weights.load import Network, load_network
from tests.evaluate.small import small_checkpoint, small_config, small_index, small_index_file

OPTIONS = EmbedOptions(clips_per_video=3, num_workers=1)


@pytest.fixture(scope="module")
def network() -> Network:
    return load_network(small_checkpoint())


def test_feature_is_the_mean_over_clips_time_and_space(network: Network) -> None:
    index = small_index()
    features = embed(network, index, splits=["test"], options=OPTIONS)
    assert features.paths == tuple(index.paths[v] for v in index.split("test"))
    spec = OPTIONS.spec(network.config)
    clip = network.config.clip
    assert (spec.mode, spec.clips_per_video) == ("evaluate", 3)
    assert spec.frame_stride == clip.frame_stride
    with ClipLoader(
        index, spec, batch_size=1, split="test", shuffle=False, num_workers=1
    ) as loader:
        for batch, feature in zip(loader, features.features, strict=True):
            assert batch.clips.shape == (1, 3, 3, clip.frames_per_clip, *2 * (clip.crop_size,))
            with torch.inference_mode():
                maps = [network.model.backbone(shown[None])[0] for shown in batch.clips[0]]
            expected = torch.stack([m.mean(dim=(1, 2, 3)) for m in maps]).mean(dim=0)
            np.testing.assert_allclose(feature, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_file_tells_all_that_retrieval_needs(network: Network) -> None:
    index = small_index()
    features = embed(network, index, options=OPTIONS)
    assert features.features.shape == (24, 128)
    assert features.paths == index.paths
    assert np.array_equal(features.labels, index.labels)
    assert features.class_names == index.class_names
    for name in ("train", "test"):
        assert np.array_equal(features.splits[name], index.splits[name])
    assert features.weights_sha256 == hashlib.sha256(small_checkpoint().read_bytes()).hexdigest()
    assert features.data_fingerprint == index.fingerprint
    assert features.settings["backbone"] == "tiny"
    assert features.settings["clips_per_video"] == 3


def test_one_split_keeps_the_numbers_of_its_own_rows(network: Network) -> None:
    index = small_index()
    features = embed(network, index, splits=["test"], options=OPTIONS)
    assert features.split("test").tolist() == list(range(8))
    assert features.split("train").tolist() == []
    assert np.array_equal(features.labels, index.labels[index.split("test")])


@pytest.mark.parametrize("batch_size", [5, 100])
def test_batch_size_changes_nothing_but_rounding(network: Network, batch_size: int) -> None:
    index = small_index()
    one = embed(network, index, splits=["test"], options=replace(OPTIONS, batch_size=8))
    other = embed(network, index, splits=["test"], options=replace(OPTIONS, batch_size=batch_size))
    np.testing.assert_allclose(other.features, one.features, rtol=1e-4, atol=1e-5)


def test_progress_reaches_the_end(network: Network) -> None:
    told: list[tuple[int, int, int]] = []
    options = replace(OPTIONS, batch_size=5)
    embed(
        network, small_index(), splits=["test"], options=options, progress=lambda *n: told.append(n)
    )
    assert told == [(5, 8, 0), (8, 8, 0)]


def test_random_weights_are_those_the_run_began_with_and_are_named() -> None:
    state = torch.get_rng_state()
    untrained = load_network(small_checkpoint(), random_weights=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert untrained.weights_sha256 == "random weights, seed 0"
    torch.manual_seed(0)
    expected = create_model(small_config()).state_dict()
    trained = load_network(small_checkpoint()).model.state_dict()
    for name, value in untrained.model.state_dict().items():
        assert torch.equal(value, expected[name])
    assert not torch.equal(trained["clip_head.0.weight"], expected["clip_head.0.weight"])
    assert not untrained.model.training


def test_checkpoint_that_is_missing_or_damaged_never_becomes_random_weights(
    tmp_path: Path,
) -> None:
    with pytest.raises(InputError, match="no such run folder or checkpoint"):
        load_network(tmp_path / "run")
    with pytest.raises(InputError, match="holds no checkpoint"):
        load_network(tmp_path)
    (tmp_path / "cut.pt").write_bytes(small_checkpoint().read_bytes()[:-100])
    for random_weights in (False, True):
        with pytest.raises(InputError, match="damaged, or not a checkpoint"):
            load_network(tmp_path / "cut.pt", random_weights=random_weights)
    with pytest.raises(InputError, match="an index or pack of videos; name the run first"):
        load_network(small_index_file())


def test_missing_split_is_named_before_any_work(network: Network) -> None:
    with pytest.raises(InputError, match="no split 'val'; its splits: test, train"):
        embed(network, small_index(), splits=["val"], options=OPTIONS)


def test_diverged_network_is_an_error_and_not_a_score() -> None:
    diverged = load_network(small_checkpoint())
    with torch.no_grad():
        next(diverged.model.backbone.parameters()).fill_(torch.nan)
    with pytest.raises(InputError, match="features of 8 of 8 videos are not finite"):
        embed(diverged, small_index(), splits=["test"], options=OPTIONS)


class CountsItsClips(nn.Module):
    """A statistic that moves in evaluation mode too."""

    feature_dim = 3

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, clips: Tensor) -> Tensor:
        self.seen += len(clips)
        return clips.mean(dim=(2, 3, 4), keepdim=True)


def test_network_that_does_not_stay_as_it_is_gives_no_features(network: Network) -> None:
    moving = VideoEncoder(CountsItsClips(), network.config, weights_sha256="moving").eval()
    with pytest.raises(FailureError, match=r"1 frozen weights or statistics moved, first .*seen"):
        embed(replace(network, model=moving), small_index(), splits=["test"], options=OPTIONS)


def test_bad_videos_are_left_out_and_too_many_end_the_work(
    network: Network, tmp_path: Path
) -> None:
    """Files that were good when indexed: no row is made up for them, and the others are theirs."""
    source = small_index_file().parent / "videos"
    for folder in ("disc-orbits", "ring-hops"):
        shutil.copytree(source / folder, tmp_path / folder)
    index = build_index(tmp_path, tmp_path / "x.h5", num_workers=1)
    whole = embed(network, index, options=OPTIONS)
    for video in range(1, 6):
        index.path(video).write_bytes(b"\0" * 100)
        if video == 1:
            left = embed(network, index, options=OPTIONS)
            assert left.paths == (index.paths[0], *index.paths[2:])
            assert left.left_out == (LeftOut(index.paths[1], "could not be decoded", ()),)
            np.testing.assert_allclose(left.features, whole.features[[0, 2, 3, 4, 5]], rtol=1e-4)
    with pytest.raises(FailureError, match="5 of 6 videos failed"):
        embed(network, index, options=OPTIONS)
