"""The backbone with its two heads."""

import pytest
import torch

from fastdual.backbones import create_backbone
from fastdual.config import resolve
from fastdual.model.dual import DualModel, create_model


def tiny_model(num_segments: int = 2) -> DualModel:
    torch.manual_seed(0)
    return DualModel(create_backbone("tiny"), num_segments=num_segments, segment_dim=24)


@pytest.mark.parametrize("num_segments", [1, 2, 4])
def test_embeddings_have_their_shapes_and_length_one(num_segments: int) -> None:
    clip, segments = tiny_model(num_segments)(torch.randn(3, 3, 8, 32, 32))
    assert clip.shape == (3, 128)
    assert segments.shape == (3, num_segments, 24)
    torch.testing.assert_close(clip.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(segments.norm(dim=-1), torch.ones(3, num_segments))


def test_heads_are_linear_relu_linear_on_the_pooled_features() -> None:
    model = tiny_model().eval()
    clips = torch.randn(2, 3, 8, 32, 32)
    features = model.features(clips)
    torch.testing.assert_close(features, model.backbone(clips).flatten(2).mean(-1))
    first, last = model.segment_head[0], model.segment_head[2]
    raw = (features @ first.weight.T + first.bias).clamp(min=0) @ last.weight.T + last.bias
    expected = raw.reshape(2, 2, 24)
    expected = expected / expected.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(model(clips)[1], expected)


def test_a_clip_of_zeros_has_finite_embeddings_and_gradients() -> None:
    model = tiny_model()
    clip, segments = model(torch.zeros(2, 3, 8, 32, 32))
    (clip.sum() + segments.sum()).backward()
    assert torch.isfinite(clip).all()
    assert all(torch.isfinite(w.grad).all() for w in model.parameters() if w.grad is not None)


def test_embeddings_are_float32_under_autocast_and_float64_in_double() -> None:
    model = tiny_model()
    with torch.autocast("cpu", torch.bfloat16):
        clip, segments = model(torch.randn(2, 3, 8, 32, 32))
    assert clip.dtype == segments.dtype == torch.float32
    clip, _ = model.double()(torch.randn(2, 3, 8, 32, 32, dtype=torch.float64))
    assert clip.dtype == torch.float64


def test_channels_last_clips_embed_as_contiguous_ones() -> None:
    model = tiny_model().eval()
    clips = torch.randn(2, 3, 8, 32, 32)
    with torch.no_grad():
        plain, last = model(clips), model(clips.contiguous(memory_format=torch.channels_last_3d))
    for ours, theirs in zip(last, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_create_model_follows_the_config() -> None:
    settings = ["model.backbone=tiny", "clip.num_segments=4", "model.clip_dim=10"]
    clip, segments = create_model(resolve([], settings).config)(torch.randn(2, 3, 8, 32, 32))
    assert clip.shape == (2, 10)
    assert segments.shape == (2, 4, 64)
