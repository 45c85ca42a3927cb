"""Which loss sees which view, against the formulas written out as loops."""

import math

import pytest
import torch
from torch import Tensor

from fastdual.config.sections import LossConfig
from fastdual.training.objective import SimCLRObjective

B, S = 5, 3


def embeddings(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Clip [B, 4, 6] and segment [B, 4, S, 4] embeddings, a permutation each, ids."""
    generator = torch.Generator().manual_seed(seed)
    clip = torch.randn(B, 4, 6, generator=generator, dtype=torch.float64)
    segments = torch.randn(B, 4, S, 4, generator=generator, dtype=torch.float64)
    permutation = torch.stack([torch.randperm(S, generator=generator) for _ in range(B)])
    clip = torch.nn.functional.normalize(clip, dim=-1).requires_grad_()
    segments = torch.nn.functional.normalize(segments, dim=-1).requires_grad_()
    return clip, segments, permutation, torch.arange(B) + 100


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> float:
    rows = torch.cat([first, second]).tolist()
    losses = []
    for i, row in enumerate(rows):
        logits = [math.fsum(a * b for a, b in zip(row, o, strict=True)) / temperature for o in rows]
        others = math.fsum(math.exp(logits[j]) for j in range(2 * B) if j != i)
        losses.append(math.log(others) - logits[(i + B) % (2 * B)])
    return math.fsum(losses) / len(losses)


def shuffle_rank(ordered: Tensor, raw: Tensor, permutation: Tensor, temperature: float) -> float:
    losses = []
    for b in range(B):
        unshuffled = torch.empty_like(raw[b])
        for i in range(S):
            unshuffled[permutation[b, i]] = raw[b, i]
        z = torch.cat([ordered[b], unshuffled])
        gram = (z @ z.T).tolist()
        for r in range(2 * S):
            match = (r + S) % (2 * S)
            for other in set(range(2 * S)) - {r, match}:
                losses.append(math.log1p(math.exp((gram[r][other] - gram[r][match]) / temperature)))
    return math.fsum(losses) / len(losses)


def test_the_paper_objective_is_the_sum_of_its_formulas() -> None:
    clip, segments, permutation, ids = embeddings()
    config = LossConfig(clip_temperature=0.5, coherence_temperature=0.3, rank_temperature=0.4)
    output = SimCLRObjective(config)(clip, segments, permutation, ids)
    with torch.no_grad():
        means = segments.mean(dim=2)
        expected = {
            "clip": nt_xent(clip[:, 0], clip[:, 1], 0.5),
            "coherence": nt_xent(means[:, 0], means[:, 1], 0.3),
            "rank": 0.5 * shuffle_rank(segments[:, 0], segments[:, 3], permutation, 0.4)
            + 0.5 * shuffle_rank(segments[:, 2], segments[:, 3], permutation, 0.4),
        }
    for name, value in expected.items():
        assert output.metrics[name].item() == pytest.approx(value, rel=1e-6), name
    assert output.loss.item() == pytest.approx(sum(expected.values()), rel=1e-6)


@pytest.mark.parametrize(
    ("objective", "clip_views", "segment_views"),
    [
        ("clip", {0, 1}, set()),
        ("rank", set(), {0, 2, 3}),
        ("coherence", set(), {0, 1}),
        ("clip+rank", {0, 1}, {0, 2, 3}),
        ("clip+coherence", {0, 1}, {0, 1}),
        ("rank+coherence", set(), {0, 1, 2, 3}),
        ("clip+rank+coherence", {0, 1}, {0, 1, 2, 3}),
    ],
)
def test_gradients_reach_exactly_the_views_that_an_objective_uses(
    objective: str, clip_views: set[int], segment_views: set[int]
) -> None:
    clip, segments, permutation, ids = embeddings()
    SimCLRObjective(LossConfig(objective=objective))(
        clip, segments, permutation, ids
    ).loss.backward()
    for tensor, views in ((clip, clip_views), (segments, segment_views)):
        gradient = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        assert {v for v in range(4) if gradient[:, v].any()} == views


@pytest.mark.parametrize(
    ("objective", "parts"),
    [
        ("clip", {"clip", "spread"}),
        ("rank", {"rank"}),  # nothing asks videos to differ
        ("coherence", {"coherence", "spread"}),
        ("clip+rank", {"clip", "rank", "spread"}),
        ("clip+rank+coherence", {"clip", "rank", "coherence", "spread"}),
    ],
)
def test_metrics_are_detached_and_of_the_parts_alone(objective: str, parts: set[str]) -> None:
    clip, segments, permutation, ids = embeddings()
    output = SimCLRObjective(LossConfig(objective=objective))(clip, segments, permutation, ids)
    assert {name.split("_")[0] for name in output.metrics} == parts
    assert not any(value.requires_grad for value in output.metrics.values())
    assert all(value.ndim == 0 for value in output.metrics.values())


def test_perfect_embeddings_score_perfectly() -> None:
    clip = torch.eye(B)[:, None].expand(B, 4, B).contiguous()
    segments = torch.eye(B * S).reshape(B, 1, S, B * S).repeat(1, 4, 1, 1)
    permutation = embeddings()[2]
    for b in range(B):
        segments[b, 3] = segments[b, 2, permutation[b]]
    output = SimCLRObjective(LossConfig())(clip, segments, permutation, torch.arange(B))
    accuracies = {k: v.item() for k, v in output.metrics.items() if "top" in k or "acc" in k}
    assert set(accuracies.values()) == {1.0}
    assert len(accuracies) == 5


def test_the_same_video_twice_in_a_batch_is_no_negative_of_itself() -> None:
    clip, segments, permutation, _ = embeddings()
    ids = torch.tensor([1, 1, 2, 3, 4])
    clip = clip.detach().clone()
    clip[1] = clip[0]
    apart = clip.clone()
    objective = SimCLRObjective(LossConfig(objective="clip"))
    same = objective(clip, segments, permutation, ids).loss
    wrong = objective(apart, segments, permutation, torch.arange(B)).loss
    assert same < wrong


def test_spread_is_the_mean_cosine_distance_of_different_videos() -> None:
    clip, segments, permutation, ids = embeddings()
    output = SimCLRObjective(LossConfig())(clip, segments, permutation, ids)
    rows = clip[:, 0].tolist()
    distances = [
        1 - math.fsum(x * y for x, y in zip(rows[i], rows[j], strict=True))
        for i in range(B)
        for j in range(B)
        if i != j
    ]
    assert output.metrics["spread"].item() == pytest.approx(math.fsum(distances) / 20, rel=1e-9)
    alike = torch.ones_like(clip) / clip.shape[-1] ** 0.5
    output = SimCLRObjective(LossConfig())(alike, segments, permutation, ids)
    assert output.metrics["spread"].item() == pytest.approx(0, abs=1e-12)
