"""The contrastive softmax: its truth against the paper, the op against its truth, and bad input."""

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from fastdual.kernels import reference
from fastdual.kernels.contrastive import op as contrastive
from tests.kernels.contrastive.cases import (
    Case,
    Inputs,
    evaluate,
    loss_with_nan,
    make_inputs,
    rows_with_infinity,
    upstream_like,
)

BOTH = pytest.mark.parametrize("module", [reference, contrastive], ids=["reference", "op"])


def two_views(x: Tensor) -> Inputs:
    """[B, 2, D] -> the rows of NT-Xent: every view against all others but itself."""
    rows = x.flatten(0, 1)
    ids = torch.arange(len(x)).repeat_interleave(2)
    own = torch.arange(len(rows))
    return Inputs(rows, rows, ids, ids, own, own)


def call(module, inputs: Inputs, **options):
    query, key, query_ids, key_ids, query_groups, key_groups = inputs
    return module.contrastive_loss_with_metrics(
        query, key, query_ids, key_ids, query_groups=query_groups, key_groups=key_groups, **options
    )


def by_the_paper(inputs: Inputs, temperature: float, positives: str) -> list[float]:
    """METHOD of the paper as loops over rows and candidates; rows with a positive only."""
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


# ------------------------------------------------------------------------------------------- truth
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
    expected = by_the_paper(inputs, 0.2, positives)
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


# ------------------------------------------------------------------------------ traps, properties
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


def test_symmetric_call_has_the_gradient_of_both_sides() -> None:
    inputs = make_inputs(Case(9, None, 8, torch.float64))
    rows = inputs.query.requires_grad_()
    one_tensor = call(contrastive, inputs, temperature=0.1).loss
    two_tensors = call(contrastive, inputs._replace(key=rows * 1.0), temperature=0.1).loss
    (ours,), (expected,) = (torch.autograd.grad(loss, rows) for loss in (one_tensor, two_tensors))
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("wanted", ["query", "key", "temperature"])
def test_gradient_of_one_input_alone(wanted: str) -> None:
    case = Case(9, 11, 8, torch.float64)
    everything = evaluate(contrastive.contrastive_loss_with_metrics, case, make_inputs(case))
    inputs = make_inputs(case)
    temperature = torch.tensor(case.temperature, dtype=torch.float64)
    leaf = {"query": inputs.query, "key": inputs.key, "temperature": temperature}[wanted]
    leaf.requires_grad_()
    loss = call(contrastive, inputs, temperature=temperature).loss
    (grad,) = torch.autograd.grad(loss, leaf, upstream_like(loss))
    torch.testing.assert_close(grad, getattr(everything, f"grad_{wanted}"))


def slope_sizes(compute: Callable[..., Any] = contrastive.run) -> list[int]:
    """Size of the slope for a learned temperature, the same without grad, a fixed one, a float."""
    inputs = make_inputs(Case(9, 11, 8))
    learned, fixed = torch.tensor(0.1, requires_grad=True), torch.tensor(0.1)
    sizes = []
    for temperature, enabled in ((learned, True), (learned, False), (fixed, True), (0.1, True)):
        with torch.set_grad_enabled(enabled):
            problem = contrastive.make_problem(*inputs, temperature, "mean", False, "ieee")
            sizes.append(compute(problem, reduction="none", metrics=False).slope.numel())
    return sizes


def test_slope_of_the_temperature_is_gathered_only_where_it_is_wanted() -> None:
    assert slope_sizes() == [9, 0, 0, 0]
    compiled = torch.compile(contrastive.run, fullgraph=True, backend="aot_eager")
    assert slope_sizes(compiled) == [9, 0, 0, 0]


# -------------------------------------------------------------------------------------- torch op
@pytest.mark.parametrize("columns", [None, 9])
@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
def test_op_is_well_registered(columns: int | None, layout: str) -> None:
    for reduction, metrics, positives in (("mean", True, "sum"), ("none", False, "mean")):
        for requires_grad in (False, True):
            inputs = make_inputs(Case(7, columns, 8, normalize=True, layout=layout))
            inputs.query.requires_grad_(requires_grad)
            temperature = torch.tensor(0.1, requires_grad=requires_grad)
            problem = contrastive.make_problem(*inputs, temperature, positives, True, "ieee")
            arguments = *problem, reduction, metrics
            torch.library.opcheck(contrastive._contrastive_fwd, arguments)
        with torch.no_grad():
            outputs = contrastive._contrastive_fwd(*arguments)
        loss, count, _, *saved = outputs
        torch.library.opcheck(
            contrastive._contrastive_bwd,
            (torch.ones_like(loss), count if reduction == "mean" else None, *saved,
             *(x.detach() if isinstance(x, Tensor) else x for x in problem[:-1]),
             True, True, True),
        )  # fmt: skip


@pytest.mark.parametrize("columns", [None, 9])
def test_compiles_as_one_graph(columns: int | None) -> None:
    case = Case(7, columns, 8, normalize=True)
    inputs = make_inputs(case)
    nodes: list[str] = []

    def backend(graph: torch.fx.GraphModule, example_inputs: list[Tensor]):
        nodes.extend(
            str(node.target) for node in graph.graph.nodes if "fastdual" in str(node.target)
        )
        return torch._dynamo.lookup_backend("aot_eager")(graph, example_inputs)

    compiled = torch.compile(
        contrastive.contrastive_loss_with_metrics, fullgraph=True, backend=backend
    )
    ours = evaluate(compiled, case, inputs)
    expected = evaluate(contrastive.contrastive_loss_with_metrics, case, inputs)
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))
    assert len(nodes) == 1 and "contrastive_fwd" in nodes[0]


def test_second_derivative_is_refused_and_the_truth_has_it() -> None:
    inputs = make_inputs(Case(5, 6, 8))
    query = inputs.query.requires_grad_()
    loss = call(contrastive, inputs, temperature=0.1).loss
    (grad,) = torch.autograd.grad(loss, query, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative.*reference.contrastive_loss"):
        grad.square().sum().backward()
    loss = call(reference, inputs, temperature=0.1).loss
    (grad,) = torch.autograd.grad(loss, query, create_graph=True)
    grad.square().sum().backward()
    assert torch.isfinite(query.grad).all()


def test_autocast_changes_nothing() -> None:
    case = Case(9, 12, 16, normalize=True)
    expected = evaluate(contrastive.contrastive_loss_with_metrics, case, make_inputs(case))
    with torch.autocast("cpu", torch.bfloat16):
        ours = evaluate(contrastive.contrastive_loss_with_metrics, case, make_inputs(case))
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


def test_import_needs_no_triton() -> None:
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch, fastdual.kernels as k, fastdual.kernels.contrastive.gather\n"
        "i = torch.arange(3); x = torch.randn(3, 8)\n"
        "print(k.contrastive_loss(x, x, i, i, temperature=0.1).ndim)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"


# ----------------------------------------------------------------------------------------- errors
@BOTH
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": torch.zeros(3, 2, 8)}, r"query has shape \[3, 2, 8\], must be \[rows, D\]"),
        ({"key": torch.zeros(8)}, r"key has shape \[8\], must be \[rows, D\]"),
        ({"query": torch.zeros(0, 8)}, r"query has shape \[0, 8\], must have at least one row"),
        ({"key": torch.zeros(4, 9)}, "key has D = 9 but query has D = 8, must be equal"),
        ({"query": torch.zeros(3, 1025), "key": torch.zeros(4, 1025)},
         "query has D = 1025, must be between 1 and 1024"),
        ({"query": torch.zeros(3, 8).long()}, "query has dtype torch.int64, must be float32"),
        ({"query": [[0.0]]}, "query is a list, must be a tensor"),
        ({"key": torch.zeros(4, 8).half()}, "key has dtype torch.float16 but query has torch.fl"),
        ({"key": torch.zeros(4, 8, device="meta")}, "key is on meta but query is on cpu"),
        ({"query_ids": torch.arange(4)}, r"query_ids has shape \[4\], must be \[3\]: one id a row"),
        ({"key_ids": torch.zeros(4)}, "key_ids has dtype torch.float32, must be int64 or int32"),
        ({"key_ids": [0, 1, 2, 3]}, "key_ids is a list, must be an int64 or int32 tensor"),
        ({"key_ids": torch.zeros(4, device="meta").long()}, "key_ids is on meta but query is on"),
        ({"query_groups": torch.arange(3)}, "key_groups is None, must be given where"),
        ({"key_groups": torch.arange(4)}, "query_groups is None, must be given where"),
        ({"query_groups": torch.arange(2), "key_groups": torch.arange(4)},
         r"query_groups has shape \[2\], must be \[3\]"),
        ({"temperature": 0.0}, "temperature is 0.0, must be a finite number above 0"),
        ({"temperature": -1}, "temperature is -1, must be a finite number above 0"),
        ({"temperature": math.nan}, "temperature is nan, must be a finite number above 0"),
        ({"temperature": torch.ones(1)}, r"temperature is a tensor of shape \[1\]"),
        ({"temperature": torch.tensor(1)}, "dtype torch.int64, must be a float or a 0-d floating"),
        ({"positives": "max"}, "positives is 'max', must be one of 'sum', 'mean'"),
        ({"reduction": "avg"}, "reduction is 'avg', must be one of 'mean', 'none', 'sum'"),
    ],
)  # fmt: skip
def test_bad_argument_is_named(module, change: dict[str, object], message: str) -> None:
    arguments = {
        "query": torch.zeros(3, 8),
        "key": torch.zeros(4, 8),
        "query_ids": torch.arange(3),
        "key_ids": torch.arange(4),
        "temperature": 0.1,
    }
    with pytest.raises(ValueError, match=message):
        module.contrastive_loss(**(arguments | change))


def test_precision_must_be_known() -> None:
    x, ids = torch.zeros(3, 8), torch.arange(3)
    with pytest.raises(ValueError, match="precision is 'high', must be one of 'ieee', 'tf32'"):
        contrastive.contrastive_loss(x, x, ids, ids, temperature=0.1, precision="high")
