"""The pretext metrics: against hand-made networks whose score is known, and on real videos."""

import pytest
import torch

from fastdual.evaluate.held_out import held_out_embeddings
from fastdual.evaluate.pretext import measure
from tests.evaluate.held_out_cases import Heads, batches


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


def test_one_segment_has_no_rank() -> None:
    metrics = measure(held_out_embeddings(Heads(1), batches(8, 1, shuffle=False)))  # type: ignore[arg-type]
    assert metrics.rank_accuracy is None
    assert metrics.clip_top1 == 1.0
