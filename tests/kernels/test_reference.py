"""The truth of the losses, and the fused losses beside it, against the paper and its own code."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fastdual.kernels import contrastive, reference, shuffle_rank
from tests.kernels.contrastive.cases import Case, Inputs, call, make_inputs
from tests.kernels.shuffle_rank import cases as rank_cases

BOTH = pytest.mark.parametrize("module", [reference, contrastive], ids=["reference", "op"])


def two_views(x: Tensor) -> Inputs:
    """[B, 2, D] -> the rows of NT-Xent: every view against all others but itself."""
    rows = x.flatten(0, 1)
    ids = torch.arange(len(x)).repeat_interleave(2)
    own = torch.arange(len(rows))
    return Inputs(rows, rows, ids, ids, own, own)


def contrast_by_the_paper(inputs: Inputs, temperature: float, positives: str) -> list[float]:
    """The formula as loops over rows and candidates; rows with a positive only."""
    query, key, query_ids, key_ids, query_groups, key_groups = inputs
    losses = []
    for i, row in enumerate(query.tolist()):
        positive, negative = [], []
        for j, candidate in enumerate(key.tolist()):
            logit = sum(u * v for u, v in zip(row, candidate, strict=True)) / temperature
            if query_groups is not None and 0 <= key_groups[j] == query_groups[i]:
                continue
            (positive if 0 <= key_ids[j] == query_ids[i] else negative).append(logit)
        total = sum(map(math.exp, positive + negative))
        if positive and positives == "sum":
            losses.append(-math.log(sum(map(math.exp, positive)) / total))
        elif positive:
            losses.append(sum(math.log(total) - l for l in positive) / len(positive))  # noqa: E741
    return losses


@BOTH
@pytest.mark.parametrize("case", range(5))
def test_clip_contrast_matches_the_research_code(golden: Path, case: int, module) -> None:
    with np.load(golden / "losses.npz") as recorded:
        x = torch.from_numpy(recorded[f"clip{case}_x"]).requires_grad_()
        loss, grad, top1 = (
            torch.from_numpy(recorded[f"clip{case}_{name}"]) for name in ("loss", "grad", "top1")
        )
    result = call(module, two_views(x), temperature=0.07)
    result.loss.backward()
    assert abs(result.loss.item() - loss.item()) < 1e-9
    assert (x.grad - grad).abs().max() < 1e-9
    assert result.top1.double().mean().item() == pytest.approx(top1.item())


@BOTH
@pytest.mark.parametrize("case", range(5))
def test_temporal_coherence_matches_the_research_code(golden: Path, case: int, module) -> None:
    with np.load(golden / "losses.npz") as recorded:
        x = torch.from_numpy(recorded[f"tc{case}_x"]).requires_grad_()
        loss, grad = (torch.from_numpy(recorded[f"tc{case}_{name}"]) for name in ("loss", "grad"))
    # The mean of all S x S dot products is the dot product of the means.
    result = call(module, two_views(x.mean(dim=2)), temperature=0.07)
    result.loss.backward()
    assert abs(result.loss.item() - loss.item()) < 1e-9
    assert (x.grad - grad).abs().max() < 1e-9


@BOTH
@pytest.mark.parametrize("positives", ["sum", "mean"])
@pytest.mark.parametrize("columns", [None, 13])
def test_is_the_formula_of_the_paper(module, positives: str, columns: int | None) -> None:
    inputs = make_inputs(Case(11, columns, 6, torch.float64))
    expected = contrast_by_the_paper(inputs, 0.2, positives)
    options = {"temperature": 0.2, "positives": positives}
    loss = call(module, inputs, **options).loss.item()
    rows = call(module, inputs, **options, reduction="none")
    total = call(module, inputs, **options, reduction="sum").loss.item()
    assert len(expected) == rows.valid.sum() > 0
    assert loss == pytest.approx(sum(expected) / len(expected), rel=1e-12)
    assert total == pytest.approx(sum(expected), rel=1e-12)
    assert rows.loss[rows.valid].tolist() == pytest.approx(expected, rel=1e-12)
    assert torch.equal(rows.loss[~rows.valid], torch.zeros_like(rows.loss[~rows.valid]))


@pytest.mark.parametrize("positives", ["sum", "mean"])
@pytest.mark.parametrize("normalize", [False, True])
def test_truth_and_op_have_right_gradients(positives: str, normalize: bool) -> None:
    inputs = make_inputs(Case(5, 6, 4, torch.float64, normalize=normalize))
    temperature = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    for module in (reference, contrastive):
        assert torch.autograd.gradcheck(
            lambda q, k, t, module=module: call(
                module, inputs._replace(query=q, key=k), temperature=t, positives=positives,
                normalize=normalize, reduction="none",
            ).loss,
            (inputs.query.requires_grad_(), inputs.key.requires_grad_(), temperature),
        )  # fmt: skip


@BOTH
def test_metrics_judge_the_best_positive(module) -> None:
    """Row 0 has its best positive first, row 1 second after a negative, row 2 ties, row 3 sixth."""
    key = torch.tensor([[9.0], [8.0], [7.0], [6.0], [5.0], [4.0], [3.0]])
    key_ids = torch.tensor([[0, 9, 9, 9, 9, 9, 0], [9, 0, 0, 9, 9, 9, 9]])
    tied = torch.tensor([[9.0], [9.0], [7.0], [6.0], [5.0], [4.0], [3.0]])
    hits = []
    for candidates, ids in (
        (key, key_ids[0]),
        (key, key_ids[1]),
        (tied, torch.tensor([9, 0, 9, 9, 9, 9, 9])),
        (key, torch.tensor([9, 9, 9, 9, 9, 0, 0])),
    ):
        zero = torch.zeros(1, dtype=torch.int64)
        inputs = Inputs(torch.ones(1, 1), candidates, zero, ids, None, None)
        result = call(module, inputs, temperature=1.0)
        hits.append((result.top1.item(), result.top5.item()))
    assert hits == [(True, True), (False, True), (True, True), (False, False)]


def rank_by_the_paper(x: Tensor, in_order: Tensor, *, temperature: float, clip: float) -> float:
    """The formula as loops over rows and others."""
    terms = []
    for b in range(len(x)):
        rows = [*x[b].tolist(), *in_order[b].tolist()]
        dot = [[sum(u * v for u, v in zip(p, q, strict=True)) for q in rows] for p in rows]
        half = len(rows) // 2
        for r, o in itertools.product(range(2 * half), repeat=2):
            match = (r + half) % (2 * half)
            if o not in (r, match):
                terms.append(
                    math.log1p(math.exp(min((dot[r][o] - dot[r][match]) / temperature, clip)))
                )
    return sum(terms) / len(terms)


@pytest.mark.parametrize("module", [reference, shuffle_rank], ids=["reference", "op"])
@pytest.mark.parametrize("case", range(5))
def test_shuffle_rank_matches_the_research_code(golden: Path, case: int, module: object) -> None:
    with np.load(golden / "losses.npz") as recorded:
        wanted = {
            name.removeprefix(f"rank{case}_"): torch.from_numpy(recorded[name])
            for name in recorded.files
            if name.startswith(f"rank{case}_")
        }
    x, shuffled = wanted["x"].requires_grad_(), wanted["shuffled"].requires_grad_()
    result = module.shuffle_rank_loss_with_metrics(x, shuffled, wanted["perm"], clip=5.0)
    grad_x, grad_shuffled = torch.autograd.grad(result.loss, (x, shuffled))
    grad_in_order = reference.unshuffle(grad_shuffled, wanted["perm"])
    assert abs(result.loss.item() - wanted["loss_clip5"].item()) < 1e-9
    assert abs(result.accuracy.item() - wanted["acc"].item()) < 1e-6
    assert (grad_x - wanted["grad_x_clip5"]).abs().max() < 1e-9
    assert (grad_in_order - wanted["grad_unshuffled_clip5"]).abs().max() < 1e-9


@pytest.mark.parametrize("clip", [None, 2.0])
def test_truth_is_the_formula_of_the_paper(clip: float | None) -> None:
    x, shuffled, permutation = rank_cases.make_inputs(rank_cases.Case(3, 4, 7, torch.float64))
    ours = reference.shuffle_rank_loss(x, shuffled, permutation, temperature=0.1, clip=clip)
    in_order = reference.unshuffle(shuffled, permutation)
    paper = rank_by_the_paper(x, in_order, temperature=0.1, clip=math.inf if clip is None else clip)
    assert ours.item() == pytest.approx(paper, rel=1e-12)


def test_unshuffle_puts_segment_i_where_the_permutation_says() -> None:
    permutation = torch.tensor([[2, 0, 1]])
    shuffled = torch.tensor([[[20.0], [0.0], [10.0]]])
    assert reference.unshuffle(shuffled, permutation).flatten().tolist() == [0.0, 10.0, 20.0]


@pytest.mark.parametrize("normalize", [False, True])
def test_truth_of_shuffle_rank_has_right_gradients(normalize: bool) -> None:
    x, shuffled, permutation = rank_cases.make_inputs(
        rank_cases.Case(2, 3, 5, torch.float64, normalize=normalize)
    )
    assert torch.autograd.gradcheck(
        lambda a, b: reference.shuffle_rank_loss(
            a, b, permutation, temperature=0.5, normalize=normalize
        ),
        (x.requires_grad_(), shuffled.requires_grad_()),
    )
