"""The shuffle-rank loss: properties, traps, and any shape against its truth."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fastdual.kernels import reference, shuffle_rank
from tests.kernels.shuffle_rank.cases import Case, evaluate, make_inputs


def test_loss_does_not_depend_on_how_the_segments_were_shuffled() -> None:
    x, in_order, _ = make_inputs(Case(6, 5, 16, torch.float64))
    identity = torch.arange(5).expand(6, 5)
    expected = shuffle_rank.shuffle_rank_loss(x, in_order, identity)
    for seed in range(3):
        torch.manual_seed(seed)
        permutation = torch.rand(6, 5).argsort(dim=1)
        shuffled = in_order.take_along_dim(permutation[:, :, None], dim=1)
        ours = shuffle_rank.shuffle_rank_loss(x, shuffled, permutation)
        torch.testing.assert_close(ours, expected, rtol=1e-13, atol=0)


def test_samples_do_not_see_each_other() -> None:
    x, shuffled, permutation = make_inputs(Case(6, 3, 16, torch.float64))
    whole = shuffle_rank.shuffle_rank_loss(x, shuffled, permutation)
    each = [
        shuffle_rank.shuffle_rank_loss(x[i : i + 1], shuffled[i : i + 1], permutation[i : i + 1])
        for i in range(6)
    ]
    torch.testing.assert_close(torch.stack(each).mean(), whole, rtol=1e-13, atol=0)


def test_perfect_ranking_has_accuracy_one_and_a_tie_has_none() -> None:
    basis = torch.eye(4).expand(3, 4, 4)
    order = torch.arange(4).expand(3, 4)
    assert shuffle_rank.shuffle_rank_loss_with_metrics(basis, basis, order).accuracy == 1
    alike = torch.ones(3, 4, 4)
    assert shuffle_rank.shuffle_rank_loss_with_metrics(alike, alike, order).accuracy == 0


def test_clip_stops_the_gradient_of_the_worst_violations() -> None:
    x = F.normalize(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), dim=2).requires_grad_()
    swapped = x.detach().flip(1)
    order = torch.arange(2)[None]
    shuffle_rank.shuffle_rank_loss(x, swapped, order, clip=5.0).backward()
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_nan_is_not_hidden_by_clip() -> None:
    x, shuffled, permutation = make_inputs(Case(3, 2, 8))
    x[1, 0, 3] = torch.nan
    result = shuffle_rank.shuffle_rank_loss_with_metrics(x, shuffled, permutation, clip=5.0)
    assert result.loss.isnan()


def test_zero_segments_stay_finite_when_normalized() -> None:
    x, shuffled, permutation = make_inputs(Case(3, 2, 8))
    x[1] = 0
    ours = evaluate(
        shuffle_rank.shuffle_rank_loss_with_metrics,
        Case(3, 2, 8, normalize=True),
        (x, shuffled, permutation),
    )
    assert all(torch.isfinite(part).all() for part in ours)


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 9),
    segments=st.integers(2, 16),
    dim=st.integers(1, 40),
    temperature=st.floats(0.01, 2.0),
    clip=st.none() | st.floats(-1.0, 10.0),
    normalize=st.booleans(),
)
def test_any_shape_matches_the_truth(
    batch: int, segments: int, dim: int, temperature: float, clip: float | None, normalize: bool
) -> None:
    case = Case(batch, segments, dim, torch.float64, temperature, clip, normalize)
    inputs = make_inputs(case)
    ours = evaluate(shuffle_rank.shuffle_rank_loss_with_metrics, case, inputs)
    truth = evaluate(reference.shuffle_rank_loss_with_metrics, case, inputs)
    for name, our, exact in zip(truth._fields, ours, truth, strict=True):
        # Unit vectors of one dimension are 1 or -1: they tie, and rounding says who is first.
        if name != "accuracy" or not (normalize and dim == 1):
            torch.testing.assert_close(our, exact, rtol=1e-9, atol=1e-12)
