"""The pretext metrics: against hand-made networks whose score is known, and on real videos."""

from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from fastdual.evaluate.held_out import held_out_embeddings, held_out_loader
from fastdual.evaluate.pretext import measure
from fastdual.model.dual import DualModel, create_model
from tests.evaluate.small import small_config, small_index


class Views(NamedTuple):
    """What the metrics read of a ClipBatch."""

    clips: Tensor
    permutation: Tensor
    video_ids: Tensor


class CodeReader(nn.Module):
    """A perfect network for clips whose pixels are the embedding: feature c is channel mean c."""

    feature_dim = 3

    def forward(self, clips: Tensor) -> Tensor:
        """[N, 3, T, H, W] -> the same."""
        return clips


class Heads(DualModel):
    """Embeds a clip by its own pixels: segment s by the mean of its part of the frames."""

    def __init__(self, num_segments: int) -> None:
        super().__init__(CodeReader(), num_segments=num_segments)

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """[N, 3, T, H, W] -> [N, 3], [N, S, 3]."""
        maps = self.backbone(clips)
        parts = maps.mean(dim=(3, 4)).unflatten(2, (self.num_segments, -1)).mean(dim=3)
        normalise = nn.functional.normalize
        return normalise(maps.mean(dim=(2, 3, 4))), normalise(parts.transpose(1, 2), dim=2)


def batches(num_videos: int, num_segments: int, *, shuffle: bool) -> Iterator[Views]:
    """Videos of noise, each with one code a segment; all views alike, view 3 permuted."""
    generator = torch.Generator().manual_seed(0)
    for start in range(0, num_videos, 4):
        codes = torch.randn(4, 3, num_segments, generator=generator)
        clips = codes.repeat_interleave(2, dim=2)[:, None, :, :, None, None].repeat(
            1, 4, 1, 1, 1, 1
        )
        permutation = torch.arange(num_segments).repeat(4, 1)
        if shuffle:
            permutation = permutation.roll(1, dims=1)
        blocks = clips[:, 3].unflatten(2, (num_segments, 2))
        for row in range(4):
            blocks[row] = blocks[row][:, permutation[row]]
        clips[:, 3] = blocks.flatten(2, 3)
        yield Views(clips, permutation, torch.arange(start, start + 4))


@pytest.mark.parametrize("num_segments", [2, 4])
@pytest.mark.parametrize("shuffle", [False, True])
def test_perfect_network_scores_one(num_segments: int, shuffle: bool) -> None:
    metrics = measure(
        held_out_embeddings(Heads(num_segments), batches(12, num_segments, shuffle=shuffle))
    )  # type: ignore[arg-type]
    assert metrics.num_videos == 12
    assert metrics.rank_accuracy == 1.0
    assert metrics.shuffled_rank_accuracy == (1.0 if shuffle else None)
    assert metrics.rank_chance == 1 / (2 * num_segments - 1)
    assert metrics.clip_top1 == 1.0
    assert metrics.same_video_recall == 1.0


def test_segments_are_put_back_into_order() -> None:
    """Four segments moved round by one: the inverse of that is another permutation."""
    held_out = held_out_embeddings(Heads(4), batches(12, 4, shuffle=True))  # type: ignore[arg-type]
    assert held_out.moved.all()
    similarity = torch.from_numpy(held_out.moved_similarity()).float()
    torch.testing.assert_close(similarity.diagonal(dim1=1, dim2=2), torch.ones(12, 4))
    assert (similarity.argmax(dim=2) == torch.arange(4)).all()


def test_rank_needs_the_right_permutation() -> None:
    """The same clips with a permutation that did not happen: every match is wrong."""
    wrong = [
        views._replace(permutation=views.permutation.roll(1, dims=1))
        for views in batches(8, 2, shuffle=False)
    ]
    metrics = measure(held_out_embeddings(Heads(2), wrong))  # type: ignore[arg-type]
    assert metrics.rank_accuracy == metrics.shuffled_rank_accuracy == 0.0


def test_collapsed_network_scores_nothing() -> None:
    flat = [
        views._replace(clips=torch.ones_like(views.clips)) for views in batches(8, 2, shuffle=True)
    ]
    metrics = measure(held_out_embeddings(Heads(2), flat))  # type: ignore[arg-type]
    assert metrics.rank_accuracy == metrics.clip_top1 == metrics.same_video_recall == 0.0


def test_videos_shown_twice_count_once() -> None:
    """Substitutes of bad videos: the same video in two slots would be no fair negative."""
    once = list(batches(8, 2, shuffle=True))
    metrics = measure(held_out_embeddings(Heads(2), [*once, once[0]]))  # type: ignore[arg-type]
    assert metrics.num_videos == 8
    assert metrics.clip_top1 == 1.0


def test_one_segment_has_no_rank() -> None:
    metrics = measure(held_out_embeddings(Heads(1), batches(8, 1, shuffle=False)))  # type: ignore[arg-type]
    assert metrics.rank_accuracy is None
    assert metrics.clip_top1 == 1.0


def test_real_videos_give_the_same_numbers_twice_and_leave_the_model_alone() -> None:
    config, index = small_config(), small_index()
    torch.manual_seed(0)
    model = create_model(config)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    results = []
    for _ in range(2):
        with held_out_loader(index, config, split="test", num_workers=1) as loader:
            results.append(measure(held_out_embeddings(model, loader)))
    assert results[0] == results[1]
    assert results[0].num_videos == 8
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
