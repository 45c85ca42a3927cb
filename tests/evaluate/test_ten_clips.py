"""The test of a classifier on several clips a video, and what is said of videos it cannot see."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastdual.config import FinetuneConfig
from fastdual.evaluate.embed import EmbedOptions, embed_clips
from fastdual.evaluate.ten_clips import classify_by_clips
from fastdual.loaders.index import VideoIndex, build_index
from fastdual.run.folder import RunFolder
from fastdual.training.classifier import Classifier
from fastdual.training.resume import ConfigRequest, resolve_finetune
from fastdual.weights.load import load, load_network
from tests.evaluate.small import small_checkpoint, small_index, small_index_file


def config_of(**settings: Any) -> FinetuneConfig:
    """The paper's recipe but for what a test on a CPU needs."""
    values = {"data.num_workers": 1, "run.device": "cpu", **settings}
    request = ConfigRequest(settings=[f"{key}={value}" for key, value in values.items()])
    return resolve_finetune(RunFolder(Path("not-there")), request, load(small_checkpoint())).config


def classifier(index: VideoIndex) -> Classifier:
    torch.manual_seed(1)
    backbone = load(small_checkpoint()).backbone
    model = Classifier(backbone, num_classes=len(index.class_names), freeze=False)
    # Features of a random backbone hardly differ: made steep, so that the order of mean and
    # softmax decides the score.
    with torch.no_grad():
        model.head.weight.mul_(200)
    return model


def test_score_is_the_mean_softmax_of_ten_clips() -> None:
    index, config = small_index(), config_of()
    assert config.clip.clips_per_video == 10
    model = classifier(index)
    found, missing = classify_by_clips(model, index, config)
    assert missing == ()
    options = EmbedOptions(clips_per_video=10, frame_stride=config.clip.frame_stride, num_workers=1)
    means, swapped = {}, {}
    network = load_network(small_checkpoint())
    for videos, features in embed_clips(network, index, splits=["test"], options=options):
        with torch.no_grad():
            for video, clips in zip(videos, features, strict=True):
                assert len(clips) == 10
                logits = model.head(clips).double()
                means[video] = sum(logit.softmax(dim=0) for logit in logits) / 10
                swapped[video] = logits.mean(dim=0).softmax(dim=0)
    expected = torch.stack([means[video] for video in sorted(means)])
    torch.testing.assert_close(torch.from_numpy(found.scores), expected, rtol=1e-3, atol=1e-4)
    other = torch.stack([swapped[video] for video in sorted(swapped)])
    assert (other - expected).abs().max() > 0.01  # the softmax of the mean is told apart


def test_video_that_cannot_be_tested_is_named(tmp_path: Path) -> None:
    shutil.copytree(small_index_file().parent / "videos", tmp_path / "videos")
    index = build_index(tmp_path / "videos" / "videos.csv", tmp_path / "x.h5", num_workers=1)
    quarantine = (("never.mp4", "no video stream"),)
    index = replace(index, quarantine=quarantine, quarantine_stamps=np.zeros((1, 2), np.int64))
    broken = index.split("test")[3]
    index.path(broken).write_bytes(b"\0" * 100)
    config = config_of(**{"clip.clips_per_video": 1})
    found, missing = classify_by_clips(classifier(index), index, config)
    assert len(found.labels) == len(index.split("test")) - 1
    assert [(video.path, video.reason) for video in missing] == [
        (index.paths[broken], "could not be decoded"),
        ("never.mp4", "in the index's quarantine: no video stream"),
    ]
