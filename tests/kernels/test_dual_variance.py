"""The paper's loss and its contrasts: its own numbers, parts, ids, and odd batches."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastdual import functional
from fastdual.kernels.objective import Objective
from fastdual.losses import (
    DualVarianceLoss,
    DualVarianceResult,
    NTXentLoss,
    ShuffleRankLoss,
    TemporalCoherenceLoss,
)
from tests.embeddings import BACKENDS, dual_inputs, unit


def recorded(golden: Path, prefix: str) -> dict[str, Tensor]:
    with np.load(golden / "losses.npz") as file:
        return {
            name.removeprefix(prefix): torch.from_numpy(file[name])
            for name in file.files
            if name.startswith(prefix)
        }


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", range(5))
def test_clip_contrast_matches_the_research_code(golden: Path, case: int, backend: str) -> None:
    wanted = recorded(golden, f"clip{case}_")
    x = wanted["x"].requires_grad_()
    result = functional.two_view_contrast(x[:, 0], x[:, 1], temperature=0.07, backend=backend)
    (grad,) = torch.autograd.grad(result.loss, x)
    assert abs(result.loss.item() - wanted["loss"].item()) < 1e-9
    assert (grad - wanted["grad"]).abs().max() < 1e-9
    assert result.top1.double().mean().item() == pytest.approx(wanted["top1"].item(), abs=1e-7)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", range(5))
def test_temporal_coherence_matches_the_research_code(
    golden: Path, case: int, backend: str
) -> None:
    wanted = recorded(golden, f"tc{case}_")
    x = wanted["x"].requires_grad_()
    loss = TemporalCoherenceLoss(backend=backend)(x[:, 0], x[:, 1])
    (grad,) = torch.autograd.grad(loss, x)
    assert abs(loss.item() - wanted["loss"].item()) < 1e-9
    assert (grad - wanted["grad"]).abs().max() < 1e-9


@pytest.mark.parametrize("backend", BACKENDS)
def test_total_is_the_sum_of_the_paper(backend: str) -> None:
    clip, parts, permutation, ids = dual_inputs(6, 3)
    result = DualVarianceLoss(backend=backend)(clip, parts, permutation, ids)
    contrast = NTXentLoss(0.07, normalize=False)(clip[:, 0], clip[:, 1])
    coherence = TemporalCoherenceLoss(0.07)(parts[:, 0], parts[:, 1])
    rank = ShuffleRankLoss(0.05)
    ranks = [rank(parts[:, view], parts[:, 3], permutation) for view in (0, 2)]
    torch.testing.assert_close(result.clip, contrast)
    torch.testing.assert_close(result.coherence, coherence)
    torch.testing.assert_close(result.rank, sum(ranks) / 2)
    torch.testing.assert_close(result.total, contrast + coherence + sum(ranks) / 2)
    assert 0 <= result.clip_top1 <= result.clip_top5 <= 1
    assert all(part.ndim == 0 for part in result)


def test_backends_agree_on_every_part_and_gradient() -> None:
    outcomes = []
    for backend in BACKENDS:
        clip, parts, *others = dual_inputs(9, 4)
        clip, parts = clip.requires_grad_(), parts.requires_grad_()
        result = DualVarianceLoss(backend=backend)(clip, parts, *others)
        grads = torch.autograd.grad(result.total, (clip, parts))
        outcomes.append((*result, *grads))
    for ours, eager in zip(*outcomes, strict=True):
        torch.testing.assert_close(ours, eager, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    ("objective", "present"),
    [(objective.value, set(objective.parts)) for objective in Objective],
)
def test_objective_names_the_parts_of_the_total(objective: str, present: set[str]) -> None:
    inputs = dual_inputs(6, 3)
    whole = DualVarianceLoss()(*inputs)
    result = DualVarianceLoss(objective=objective)(*inputs)
    kept = {
        name: value for name, value in whole.measured().items() if name.split("_")[0] in present
    }
    assert result.measured() == kept
    absent = {"clip", "rank", "coherence"} - present
    assert all(getattr(result, part) is None for part in absent)
    assert result.total.item() == pytest.approx(sum(getattr(whole, p).item() for p in present))


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_scale_the_gradient_of_a_part_and_not_its_value(backend: str) -> None:
    """`clip_weight` 1/W is what the released gather does to the gradient on W processes."""
    clip, parts, *others = dual_inputs(6, 2)
    plain = DualVarianceLoss(backend=backend)(
        clip.requires_grad_(), parts.requires_grad_(), *others
    )
    weights = {"clip": 0.125, "rank": 3.0, "coherence": 0.5}
    loss = DualVarianceLoss(backend=backend, **{f"{k}_weight": v for k, v in weights.items()})
    weighted = loss(clip, parts, *others)
    assert [weighted.clip, weighted.rank] == [plain.clip, plain.rank]
    ours = torch.autograd.grad(weighted.total, (clip, parts))
    sum_of_parts = sum(weight * getattr(plain, part) for part, weight in weights.items())
    theirs = torch.autograd.grad(sum_of_parts, (clip, parts))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-15)
    off = DualVarianceLoss(backend=backend, clip_weight=0)(clip, parts, *others)
    torch.testing.assert_close(off.total, plain.rank + plain.coherence)


def test_contrasts_need_no_permutation() -> None:
    clip, parts, _, ids = dual_inputs(5, 2)
    for objective in ("clip", "coherence", "clip+coherence"):
        result = DualVarianceLoss(objective=objective)(clip[:, :2], parts[:, :2], None, ids)
        assert torch.isfinite(result.total)


def test_clip_objective_needs_two_views_and_one_segment() -> None:
    clip, parts, _, ids = dual_inputs(5, 1)
    result = DualVarianceLoss(objective="clip")(clip[:, :2], parts[:, :2], torch.zeros(5, 1), ids)
    assert torch.isfinite(result.total)


def test_a_video_twice_in_the_batch_is_no_negative_of_itself() -> None:
    """Rows of one video are the same vector: as negatives they would cost log 3 a row."""
    clip, parts, permutation, ids = dual_inputs(4, 2)
    clip[:, :2] = torch.eye(12, dtype=torch.float64)[[0, 0, 1, 2]][:, None]
    apart = DualVarianceLoss(clip_temperature=0.01)(clip, parts, permutation, ids)
    ids = torch.tensor([7, 7, 3, 4])
    together = DualVarianceLoss(clip_temperature=0.01)(clip, parts, permutation, ids)
    assert apart.clip.item() == pytest.approx(math.log(3) / 2)
    assert together.clip.item() == pytest.approx(0, abs=1e-12)
    assert together.clip_top1 == 1


def test_one_video_gives_a_finite_loss() -> None:
    inputs = dual_inputs(1, 2)
    result = DualVarianceLoss()(inputs[0].requires_grad_(), *inputs[1:])
    result.total.backward()
    assert result.clip.item() == 0
    assert torch.isfinite(inputs[0].grad).all()


def test_half_precision_embeddings_give_a_float32_loss() -> None:
    inputs = dual_inputs(8, 2, dtype=torch.bfloat16)
    result = DualVarianceLoss()(*inputs)
    exact = DualVarianceLoss()(inputs[0].double(), inputs[1].double(), *inputs[2:])
    assert result.total.dtype == torch.float32
    # Segment means are rounded to bfloat16 (2^-9) and divided by a temperature of 0.07.
    assert result.total.item() == pytest.approx(exact.total.item(), abs=0.03)


def test_compiles_as_one_graph() -> None:
    inputs = dual_inputs(5, 2, dtype=torch.float32)
    loss = DualVarianceLoss()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for ours, expected in zip(compiled(*inputs), loss(*inputs), strict=True):
        torch.testing.assert_close(ours, expected)


def test_results_name_what_they_hold() -> None:
    assert DualVarianceResult._fields == (
        "total", "clip", "coherence", "rank", "clip_top1", "clip_top5",
        "coherence_top1", "coherence_top5", "rank_accuracy",
    )  # fmt: skip


@pytest.mark.parametrize("positives", ["sum", "mean"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_segment_form_is_its_definition(backend: str, positives: str) -> None:
    batch, num_segments, temperature = 3, 2, 0.3
    first, second = unit(2, batch, num_segments, 5)
    ours = TemporalCoherenceLoss(
        temperature, form="segments", positives=positives, backend=backend
    )(first, second)
    rows = list(itertools.product((0, 1), range(batch), range(num_segments)))
    views = torch.stack([first, second])
    losses = []
    for view, video, segment in rows:
        logits = {
            other: (views[view, video, segment] @ views[other] / temperature).item()
            for other in rows
            if other[:2] != (view, video)  # its own clip is ignored
        }
        own_video = [logit for other, logit in logits.items() if other[1] == video]
        everything = math.log(sum(map(math.exp, logits.values())))
        if positives == "sum":
            losses.append(everything - math.log(sum(map(math.exp, own_video))))
        else:
            losses.append(everything - sum(own_video) / len(own_video))
    assert ours.item() == pytest.approx(sum(losses) / len(losses), rel=1e-12)


def test_mean_form_is_the_mean_of_all_segment_pairs() -> None:
    first, second = unit(2, 4, 3, 6)
    similarity = torch.einsum("asd,btd->abst", *[torch.cat([first, second])] * 2).mean(dim=(2, 3))
    logits = (similarity / 0.07).fill_diagonal_(-torch.inf)
    expected = F.cross_entropy(logits, (torch.arange(8) + 4) % 8)
    torch.testing.assert_close(TemporalCoherenceLoss()(first, second), expected)
