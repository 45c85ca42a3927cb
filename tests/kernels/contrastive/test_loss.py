"""The contrastive softmax: properties, traps, and any shape against its truth."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fastdual import losses
from fastdual.kernels import contrastive, reference
from fastdual.kernels.contrastive import op
from fastdual.kernels.contrastive.loss import batch_problem
from fastdual.kernels.contrastive.problem import PRECISIONS, Layout
from tests.kernels.contrastive.cases import (
    Case,
    Inputs,
    call,
    evaluate,
    make_inputs,
)
from tests.kernels.contrastive.traps import loss_with_nan, rows_with_infinity


def test_permuting_the_batch_permutes_the_loss() -> None:
    inputs = make_inputs(Case(12, 15, 8, torch.float64))
    order = torch.randperm(12)
    moved = inputs._replace(
        query=inputs.query[order],
        query_ids=inputs.query_ids[order],
        query_groups=inputs.query_groups[order],
    )
    rows = call(contrastive, inputs, temperature=0.1, reduction="none").loss
    torch.testing.assert_close(
        call(contrastive, moved, temperature=0.1, reduction="none").loss, rows[order]
    )


@pytest.mark.parametrize("positives", ["sum", "mean"])
def test_slope_at_a_perfect_positive_does_not_cancel(positives: str) -> None:
    """The positive at similarity 1, negatives 30 logits lower: softmax - 1 is 0 in float32."""
    temperature = 1 / 30
    query = torch.eye(2, 4, requires_grad=True)
    ids = torch.arange(2)
    key = torch.eye(2, 4)
    loss = contrastive.contrastive_loss(
        query, key, ids, ids, temperature=temperature, positives=positives, reduction="sum"
    )
    loss.backward()
    slope = math.exp(-30) / (1 + math.exp(-30)) / temperature
    expected = torch.tensor([[-slope, slope, 0, 0], [slope, -slope, 0, 0]])
    torch.testing.assert_close(query.grad, expected, rtol=2e-5, atol=0)
    assert loss.item() == pytest.approx(2 * math.log1p(math.exp(-30)), rel=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tiny_temperature_stays_finite(dtype: torch.dtype) -> None:
    case = Case(20, None, 16, dtype, temperature=0.001, ids="twins")
    outcome = evaluate(contrastive.contrastive_loss_with_metrics, case, make_inputs(case))
    assert all(torch.isfinite(part).all() for part in outcome)
    assert outcome.loss.dtype == torch.float32 and outcome.grad_query.dtype == dtype


def test_nan_reaches_the_loss() -> None:
    assert loss_with_nan().isnan()


def test_a_positive_at_minus_infinity_is_one() -> None:
    losses, valid = rows_with_infinity()
    assert valid.all() and losses.isfinite().tolist() == [True, False, True, True]


@pytest.mark.parametrize("positives", ["sum", "mean"])
def test_rows_without_positive_do_not_count(positives: str) -> None:
    rows = F.normalize(torch.randn(4, 8), dim=1).requires_grad_()
    ids = torch.tensor([0, 0, 1, 2])
    own = torch.arange(4)
    loss = call(
        contrastive, Inputs(rows, rows, ids, ids, own, own), temperature=0.1, positives=positives
    )
    assert loss.valid.tolist() == [True, True, False, False]
    alone = call(
        contrastive, Inputs(rows[:2], rows, ids[:2], ids, own[:2], own), temperature=0.1,
        positives=positives,
    )  # fmt: skip
    torch.testing.assert_close(loss.loss, alone.loss)


def test_a_batch_without_any_positive_has_loss_0_and_no_gradient() -> None:
    rows = torch.randn(3, 8, requires_grad=True)
    ids = torch.arange(3)
    result = call(contrastive, Inputs(rows, rows, ids, ids, ids, ids), temperature=0.1)
    result.loss.backward()
    assert result.loss == 0 and not result.valid.any() and not result.top5.any()
    assert torch.equal(rows.grad, torch.zeros_like(rows))


@pytest.mark.parametrize("positives", ["sum", "mean"])
def test_a_row_without_negative_has_loss_0(positives: str) -> None:
    row = torch.randn(1, 8, requires_grad=True)
    key = torch.randn(1, 8)
    ids = torch.zeros(1, dtype=torch.int64)
    result = call(
        contrastive, Inputs(row, key, ids, ids, None, None), temperature=0.1, positives=positives
    )
    result.loss.backward()
    assert result.loss == 0 and result.top1.all()
    assert torch.equal(row.grad, torch.zeros_like(row))


def test_negative_ids_of_candidates_are_never_positive() -> None:
    rows, queue = torch.randn(2, 8), torch.randn(3, 8)
    result = call(
        contrastive,
        Inputs(rows, queue, torch.tensor([-1, 0]), torch.tensor([-1, -1, 0]), None, None),
        temperature=0.1,
    )
    assert result.valid.tolist() == [False, True]


def test_a_negative_group_ignores_nothing() -> None:
    rows, ids, none = torch.randn(3, 8), torch.zeros(3, dtype=torch.int64), torch.full((3,), -1)
    grouped = call(contrastive, Inputs(rows, rows, ids, ids, none, none), temperature=0.1)
    plain = call(contrastive, Inputs(rows, rows, ids, ids, None, None), temperature=0.1)
    assert torch.equal(grouped.loss, plain.loss)


def test_symmetric_call_has_the_gradient_of_both_sides() -> None:
    inputs = make_inputs(Case(9, None, 8, torch.float64))
    rows = inputs.query.requires_grad_()
    one_tensor = call(contrastive, inputs, temperature=0.1).loss
    two_tensors = call(contrastive, inputs._replace(key=rows * 1.0), temperature=0.1).loss
    (ours,), (expected,) = (torch.autograd.grad(loss, rows) for loss in (one_tensor, two_tensors))
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize(("torchs", "ours"), [("highest", 0), ("high", 1), ("medium", 1)])
def test_precision_is_that_of_torchs_own_products(torchs: str, ours: int, monkeypatch) -> None:
    asked, run = [], op.run
    monkeypatch.setattr(op, "run", lambda problem: asked.append(problem) or run(problem))
    torch.set_float32_matmul_precision(torchs)
    try:
        x, ids = torch.ones(4, 8), torch.arange(4)
        losses.NTXentLoss()(x, x)
        losses.ContrastiveLoss()(x, x, ids, ids)
        losses.ContrastiveLoss(precision="tf32")(x, x, ids, ids)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert [PRECISIONS.index(problem.settings.precision) for problem in asked] == [ours, ours, 1]


def test_precision_must_be_known() -> None:
    x, ids = torch.zeros(3, 8), torch.arange(3)
    with pytest.raises(ValueError, match="precision is 'high', must be one of 'ieee', 'tf32'"):
        contrastive.contrastive_loss(x, x, ids, ids, temperature=0.1, precision="high")


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 12),
    columns=st.none() | st.integers(1, 12),
    dim=st.integers(1, 20),
    temperature=st.floats(0.02, 2.0),
    positives=st.sampled_from(["sum", "mean"]),
    reduction=st.sampled_from(["mean", "none", "sum"]),
    normalize=st.booleans(),
    groups=st.booleans(),
    ids=st.sampled_from(["some", "all", "none", "high bits"]),
    data=st.data(),
)
def test_any_shape_matches_the_truth(
    rows, columns, dim, temperature, positives, reduction, normalize, groups, ids, data
) -> None:
    case = Case(
        rows, columns, dim, torch.float64, positives, reduction, normalize, temperature,
        groups=groups, ids=ids,
    )  # fmt: skip
    inputs = make_inputs(case)
    if columns is not None:
        labels = st.lists(st.integers(-2, 3), min_size=columns, max_size=columns)
        inputs = inputs._replace(key_ids=torch.tensor(data.draw(labels)))
    ours = evaluate(contrastive.contrastive_loss_with_metrics, case, inputs)
    truth = evaluate(reference.contrastive_loss_with_metrics, case, inputs)
    for name, our, exact in zip(truth._fields, ours, truth, strict=True):
        if exact.dtype == torch.bool:
            assert torch.equal(our, exact), name
        else:
            torch.testing.assert_close(our, exact, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (Layout(2, 3, 1), r"id_run \* num_ids is 6, must divide the 4 rows"),
        (Layout(1, 2, 3), "group_run is 3, must divide the 4 rows"),
        (Layout(0, 2, 1), r"id_run \* num_ids is 0, must divide"),
    ],
)
def test_a_layout_must_fit_the_rows(layout: Layout, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        batch_problem(torch.zeros(4, 8), None, layout, 0.1)
