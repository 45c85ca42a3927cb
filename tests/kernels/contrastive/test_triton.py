"""The kernels of the contrastive softmax against the truth: interpreted on a CPU, or on a GPU."""

import itertools
import math

import pytest
import torch

from fastdual.kernels import reference
from fastdual.kernels.contrastive import contrastive_loss
from fastdual.kernels.contrastive.problem import NEGATIVE_MEAN, POSITIVE_MEAN, Layout
from tests.kernels.contrastive.cases import (
    FLAGGED_CASES,
    INTERPRETED_CASES,
    NUM_REPEATED,
    Case,
    Outcome,
    evaluate,
    fused,
    kernel_cases,
    make_inputs,
)
from tests.kernels.contrastive.interpreted import (
    flagged_outcome,
    launches_of,
    launches_of_losses,
    outcome,
    special_by_place,
)
from tests.kernels.contrastive.traps import (
    FAR_STRIDES,
    at_perfect_positives,
    far_rows,
    fields_without_slope,
    fused_with_a_row_of_zeros,
    loss_and_gradient,
    loss_with_nan,
    rows_apart,
    rows_with_infinity,
    ties,
    with_a_row_of_zeros,
)
from tests.kernels.segment_sums.cases import sums_of_views
from tests.numerics import assert_no_worse_than_eager

# Beyond eager's error, in units of the largest entry. Half precision: one rounding of the gradient
# and one of the slopes before the product with the embeddings.
ROUNDING = {
    torch.float64: 2**-50,
    torch.float32: 2**-21,
    torch.float16: 2**-9,
    torch.bfloat16: 2**-6,
}
GPU_CASES = kernel_cases(torch.float32, torch.float16, torch.bfloat16)


def assert_right(ours: Outcome, case: Case, device: str = "cpu") -> None:
    """Every part of the outcome against float64 on the same rounded inputs, next to eager."""
    inputs = make_inputs(case, device)
    eager = evaluate(reference.contrastive_loss_with_metrics, case, inputs)
    wide = inputs._replace(query=inputs.query.double(), key=inputs.key.double())
    if inputs.key is inputs.query:
        wide = wide._replace(key=wide.query)
    truth = evaluate(reference.contrastive_loss_with_metrics, case, wide)
    ours = Outcome(*(part.to(device) for part in ours))
    # Logits of unit rows reach 1 / temperature; an exponential makes their absolute rounding
    # relative.
    accumulated = torch.finfo(
        truth.loss.dtype if case.dtype == torch.float64 else torch.float32
    ).eps
    accumulated *= 1 / case.temperature
    for name in ("loss", "grad_query", "grad_key", "grad_temperature"):
        our, naive, exact = (getattr(outcome, name) for outcome in (ours, eager, truth))
        if exact.numel() == 0:
            assert our.numel() == 0
            continue
        scale = exact.abs().max()
        if name == "grad_temperature":
            # A sum of slopes x logits / temperature that cancels: at most this without cancelling.
            rows = case.rows if case.reduction != "mean" else 1
            scale = scale + 2 * rows / case.temperature**2
        rounding = ROUNDING[our.dtype] if "grad" in name else ROUNDING[torch.float32]
        # The truth's own softmax - 1 in float64 is the last term.
        tolerance = (rounding + accumulated) * scale + 2**-48 / case.temperature**2
        assert_no_worse_than_eager(our, naive, exact, tolerance, name)
    assert torch.equal(ours.valid, truth.valid)
    # Equal logits may fall either way once rounded.
    if case.ids != "twins":
        assert torch.equal(ours.top1, truth.top1) and torch.equal(ours.top5, truth.top5)
    assert ours.grad_query.dtype == case.dtype


@pytest.mark.parametrize("number", range(len(INTERPRETED_CASES)))
def test_interpreted_kernels_are_no_worse_than_eager(interpreted, number: int) -> None:
    case = INTERPRETED_CASES[number]
    assert_right(Outcome(*interpreted(outcome, case)), case)


def test_interpreted_kernels_repeat_bit_by_bit(interpreted) -> None:
    for case in INTERPRETED_CASES[:NUM_REPEATED]:
        first, second = (interpreted(outcome, case) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_launches_at_the_size_of_the_paper(interpreted) -> None:
    """Forward, metrics and backward: a batch against itself takes four, two sides five."""
    cases = [Case(128, columns, 128, learned=False) for columns in (None, 128)]
    assert [interpreted(launches_of, case) for case in cases] == [4, 5]


def test_losses_take_at_most_five_launches(interpreted) -> None:
    """Forward and backward, whatever torch launches for them included; lengths take one."""
    assert interpreted(launches_of_losses) == {
        "NT-Xent": 5,
        "NT-Xent, learned temperature": 5,
        "SupCon": 4,
        "CLIP": 4,
        "CLIP, learned scale": 4,
        "temporal coherence": 4,
        "temporal coherence of segments": 4,
        "shuffle-rank": 3,
    }


@pytest.mark.parametrize("number", range(len(FLAGGED_CASES)))
def test_flagged_tiles_are_no_worse_than_eager(interpreted, number: int) -> None:
    case = FLAGGED_CASES[number]
    assert_right(Outcome(*interpreted(flagged_outcome, case)), case)


def test_tiles_by_place_are_special_where_labels_meet(interpreted) -> None:
    """Exactly there: against all pairs of 140 rows."""
    row = torch.arange(140)
    for layout, special in interpreted(special_by_place):
        id_run, num_ids, group_run = layout
        ids, groups = row // id_run % num_ids, row // group_run
        meets = (ids[:, None] == ids) | (groups[:, None] == groups)
        for own, other in itertools.product(range(9), range(18)):
            part = meets[own * 16 : own * 16 + 16, other * 8 : other * 8 + 8]
            expected = bool(part.any()) or other * 8 + 8 > 140
            assert special[own, other] == expected, (layout, own, other)


def test_equal_logits_count_for_the_positive(interpreted) -> None:
    for top1, top5 in (interpreted(ties), ties()):
        assert top1.tolist() == [True, False, False]
        assert top5.tolist() == [True, True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_segment_sums_of_the_kernel(interpreted, dtype: torch.dtype) -> None:
    ours = interpreted(sums_of_views, dtype)
    assert ours.dtype == dtype
    assert torch.equal(ours, sums_of_views(dtype))


def test_nan_reaches_the_loss_of_the_kernels(interpreted) -> None:
    assert interpreted(loss_with_nan).isnan()


def test_a_positive_at_minus_infinity_is_one_to_the_kernels(interpreted) -> None:
    losses, valid = interpreted(rows_with_infinity)
    assert valid.all() and losses.isfinite().tolist() == [True, False, True, True]


@pytest.mark.parametrize("exponent", [10.0, 20.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_slopes_and_losses_near_zero_keep_their_digits(
    interpreted, exponent: float, dtype: torch.dtype
) -> None:
    """Where eager has lost them: held to the formula itself."""
    loss, grad = interpreted(at_perfect_positives, exponent, dtype)
    away = math.exp(-exponent)
    assert loss.item() == pytest.approx(2 * math.log1p(away), rel=1e-5)
    slope = 16384 * exponent * away / (1 + away)
    expected = torch.zeros(2, 16)
    expected[:2, :2] = slope * torch.tensor([[-1.0, 1.0], [1.0, -1.0]])
    rounding = 2**-9 if dtype == torch.float16 else 1e-5
    torch.testing.assert_close(grad.float(), expected, rtol=rounding, atol=0)


def test_a_row_of_zeros_stays_finite(interpreted) -> None:
    loss, grad = with_a_row_of_zeros(reference.contrastive_loss)
    assert loss.isfinite().all()
    for ours in (interpreted(fused_with_a_row_of_zeros), fused_with_a_row_of_zeros()):
        torch.testing.assert_close(ours[0], loss)
        # That of the row itself is 1e12 times as large, and of its own size right.
        torch.testing.assert_close(ours[1], grad, rtol=1e-4, atol=1e-6)


def test_kernels_gather_no_slope_where_none_is_wanted(interpreted) -> None:
    missing = interpreted(fields_without_slope).isnan().all(dim=2).all(dim=0)
    assert missing.nonzero().flatten().tolist() == [NEGATIVE_MEAN, POSITIVE_MEAN]


@pytest.mark.parametrize("stride", FAR_STRIDES)
def test_interpreted_offsets_past_two_to_the_31_elements(interpreted, stride: int) -> None:
    rows = rows_apart(stride).contiguous()
    loss, grad = loss_and_gradient(reference.contrastive_loss, rows.float())
    assert loss[2] > 0.1  # the farthest row counts
    far_loss, far_grad = interpreted(far_rows, stride)
    torch.testing.assert_close(far_loss, loss, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(far_grad.float(), grad, rtol=2**-10, atol=2**-10)


@pytest.mark.parametrize("number", range(len(INTERPRETED_CASES)))
def test_streaming_takes_the_same_cases(number: int, nan_memory) -> None:
    case = INTERPRETED_CASES[number]
    assert_right(evaluate(fused(case), case, make_inputs(case)), case)


@pytest.mark.gpu
@pytest.mark.parametrize("case", GPU_CASES, ids=str)
def test_kernels_on_a_gpu_are_no_worse_than_eager(case: Case, nan_memory) -> None:
    inputs = make_inputs(case, "cuda")
    assert_right(evaluate(fused(case), case, inputs), case, "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("case", GPU_CASES[:8], ids=str)
def test_kernels_on_a_gpu_repeat_bit_by_bit(case: Case) -> None:
    inputs = make_inputs(case, "cuda")
    first, second = (evaluate(fused(case), case, inputs) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_at_training_size_are_no_worse_than_eager(dtype: torch.dtype) -> None:
    for case in (
        Case(4096, None, 128, dtype),
        Case(2048, 4100, 256, dtype, positives="mean"),
        Case(4096, None, 128, dtype, ids="own", place=Layout(1, 2048, 2048), is_scale=True),
    ):
        inputs = make_inputs(case, "cuda")
        assert_right(evaluate(fused(case), case, inputs), case, "cuda")


@pytest.mark.gpu
def test_offsets_past_two_to_the_31_elements() -> None:
    """The last rows of more elements than an int32 counts, as if they were alone."""
    rows = torch.randn((2**31 // 64 + 300, 64), device="cuda", dtype=torch.bfloat16) / 8
    key = torch.randn((8, 64), device="cuda", dtype=torch.bfloat16)
    ids, key_ids = torch.zeros(len(rows), device="cuda", dtype=torch.int64), torch.arange(8).cuda()
    outcomes = []
    for part in (slice(None), slice(-200, None)):
        query = rows[part].requires_grad_()
        loss = contrastive_loss(query, key, ids[part], key_ids, temperature=1.0, reduction="none")
        (grad,) = torch.autograd.grad(loss.sum(), query)
        outcomes.append((loss[-200:].clone(), grad[-200:].clone()))
        del query, loss, grad
    for far, near in zip(*outcomes, strict=True):
        torch.testing.assert_close(far, near, rtol=1e-2, atol=1e-5)


@pytest.mark.gpu
def test_cuda_graph_captures_forward_and_backward() -> None:
    inputs = make_inputs(Case(64, None, 64), "cuda")
    query = inputs.query.requires_grad_()

    def step() -> tuple[torch.Tensor, torch.Tensor]:
        query_ids, groups = inputs.query_ids, inputs.query_groups
        loss = contrastive_loss(
            query, query, query_ids, query_ids, query_groups=groups, key_groups=groups,
            temperature=0.1,
        )  # fmt: skip
        return loss, *torch.autograd.grad(loss, query)

    expected = step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, expected, strict=True))


@pytest.mark.gpu
def test_nothing_waits_for_the_device() -> None:
    case = Case(300, None, 64)
    inputs = make_inputs(case, "cuda")
    evaluate(fused(case), case, inputs)
    query = inputs.query.requires_grad_()
    temperature = torch.tensor(0.1, device="cuda", requires_grad=True)
    torch.cuda.set_sync_debug_mode("error")
    try:
        contrastive_loss(
            query, query, inputs.query_ids, inputs.query_ids, temperature=temperature
        ).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
