"""The shuffle-rank loss: its truth against the paper, its kernels and its op against its truth."""

import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from fastdual.kernels import reference
from fastdual.kernels.shuffle_rank import op as shuffle_rank
from tests.kernels.shuffle_rank.cases import (
    INTERPRETED_CASES,
    NUM_REPEATED,
    Case,
    Outcome,
    evaluate,
    kernel_cases,
    make_inputs,
)
from tests.numerics import assert_no_worse_than_eager

# Beyond the error of eager at the same dtype, relative to the largest entry: for float32 another
# order of summation, for half precision one rounding of a gradient, which may fall the other way.
TOLERANCE = {
    torch.float64: 1e-14,
    torch.float32: 3e-6,
    torch.float16: 2**-11,
    torch.bfloat16: 2**-8,
}
CPU_CASES = kernel_cases(torch.float32, torch.float64, torch.float16, torch.bfloat16)
GPU_CASES = kernel_cases(torch.float32, torch.float16, torch.bfloat16)

pytestmark = pytest.mark.xdist_group("shuffle_rank")


def assert_right(ours: Outcome, case: Case, device: str = "cpu") -> None:
    """Our error against float64 on the same rounded inputs is at most eager's and the tolerance."""
    inputs = make_inputs(case, device)
    eager = evaluate(reference.shuffle_rank_loss_with_metrics, case, inputs)
    truth = evaluate(
        reference.shuffle_rank_loss_with_metrics,
        case,
        (inputs[0].double(), inputs[1].double(), inputs[2]),
    )
    for name, our, naive, exact in zip(Outcome._fields, ours, eager, truth, strict=True):
        # The loss and the accuracy are float32 even for half-precision inputs.
        tolerance = TOLERANCE[our.dtype] * exact.abs().max()
        assert_no_worse_than_eager(our.to(device), naive, exact, tolerance, name)
    assert ours.grad_x.dtype == ours.grad_shuffled.dtype == case.dtype


def by_the_paper(x: Tensor, in_order: Tensor, *, temperature: float, clip: float) -> float:
    """METHOD of the paper as loops over rows and others."""
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


# ------------------------------------------------------------------------------------------- truth
@pytest.mark.parametrize("module", [reference, shuffle_rank], ids=["reference", "op"])
@pytest.mark.parametrize("case", range(5))
def test_matches_the_research_code(golden: Path, case: int, module: object) -> None:
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
    x, shuffled, permutation = make_inputs(Case(3, 4, 7, torch.float64))
    ours = reference.shuffle_rank_loss(x, shuffled, permutation, temperature=0.1, clip=clip)
    in_order = reference.unshuffle(shuffled, permutation)
    paper = by_the_paper(x, in_order, temperature=0.1, clip=math.inf if clip is None else clip)
    assert ours.item() == pytest.approx(paper, rel=1e-12)


def test_unshuffle_puts_segment_i_where_the_permutation_says() -> None:
    permutation = torch.tensor([[2, 0, 1]])
    shuffled = torch.tensor([[[20.0], [0.0], [10.0]]])
    assert reference.unshuffle(shuffled, permutation).flatten().tolist() == [0.0, 10.0, 20.0]


@pytest.mark.parametrize("normalize", [False, True])
def test_truth_has_right_gradients(normalize: bool) -> None:
    x, shuffled, permutation = make_inputs(Case(2, 3, 5, torch.float64, normalize=normalize))
    assert torch.autograd.gradcheck(
        lambda a, b: reference.shuffle_rank_loss(
            a, b, permutation, temperature=0.5, normalize=normalize
        ),
        (x.requires_grad_(), shuffled.requires_grad_()),
    )


# --------------------------------------------------------------------------------- op and kernels
@pytest.mark.parametrize("case", CPU_CASES, ids=str)
def test_op_without_kernels_is_no_worse_than_eager(case: Case) -> None:
    ours = evaluate(shuffle_rank.shuffle_rank_loss_with_metrics, case, make_inputs(case))
    assert_right(ours, case)


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Outcomes of INTERPRETED_CASES from the kernels, interpreted on the CPU in a child."""
    path = tmp_path_factory.mktemp("interpreted") / "outcomes.pt"
    subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.kernels.shuffle_rank.cases", str(path)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        check=True,
        timeout=300,
    )
    outcomes: dict[str, object] = torch.load(path)
    return outcomes


@pytest.mark.parametrize("number", range(len(INTERPRETED_CASES)))
def test_interpreted_kernels_are_no_worse_than_eager(
    interpreted: dict[str, list[tuple[Tensor, ...]]], number: int
) -> None:
    assert_right(Outcome(*interpreted["outcomes"][number]), INTERPRETED_CASES[number])


def test_interpreted_kernels_repeat_bit_by_bit(
    interpreted: dict[str, list[tuple[Tensor, ...]]],
) -> None:
    outcomes = interpreted["outcomes"]
    for first, second in zip(outcomes, outcomes[-NUM_REPEATED:], strict=False):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_forward_and_backward_are_three_launches(interpreted: dict[str, int]) -> None:
    assert interpreted["launches_per_case"] == 3


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


# ------------------------------------------------------------------------------------- properties
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


# -------------------------------------------------------------------------------------- torch op
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "segments first"])
def test_op_is_well_registered(dtype: torch.dtype, layout: str) -> None:
    x, shuffled, permutation = make_inputs(Case(3, 4, 16, dtype, layout=layout))
    options = (0.05, 5.0, True)
    torch.library.opcheck(shuffle_rank._shuffle_rank_fwd, (x, shuffled, permutation, *options))
    x, shuffled = x.requires_grad_(), shuffled.requires_grad_()
    torch.library.opcheck(shuffle_rank._shuffle_rank_fwd, (x, shuffled, permutation, *options))
    arguments = (torch.tensor(1.0), x.detach(), shuffled.detach(), permutation)
    torch.library.opcheck(shuffle_rank._shuffle_rank_bwd, (*arguments, 0.05, None, False))


def test_compiles_as_one_graph() -> None:
    case = Case(5, 3, 16, clip=5.0)
    inputs = make_inputs(case)
    compiled = torch.compile(
        shuffle_rank.shuffle_rank_loss_with_metrics, fullgraph=True, backend="aot_eager"
    )
    ours = evaluate(compiled, case, inputs)
    expected = evaluate(shuffle_rank.shuffle_rank_loss_with_metrics, case, inputs)
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


def test_gradient_of_one_input_alone() -> None:
    x, shuffled, permutation = make_inputs(Case(3, 2, 8))
    both = evaluate(
        shuffle_rank.shuffle_rank_loss_with_metrics, Case(3, 2, 8), (x, shuffled, permutation)
    )
    (grad,) = torch.autograd.grad(
        1.7 * shuffle_rank.shuffle_rank_loss(x, shuffled.requires_grad_(), permutation), shuffled
    )
    assert torch.equal(grad, both.grad_shuffled)


def test_second_derivative_is_refused_and_the_truth_has_it() -> None:
    x, shuffled, permutation = make_inputs(Case(3, 2, 8))
    x.requires_grad_()
    loss = shuffle_rank.shuffle_rank_loss(x, shuffled, permutation)
    (grad,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated once only; use backend='eager'"):
        grad.square().sum().backward()
    (grad,) = torch.autograd.grad(
        reference.shuffle_rank_loss(x, shuffled, permutation), x, create_graph=True
    )
    grad.square().sum().backward()
    assert torch.isfinite(x.grad).all()


def test_autocast_changes_nothing() -> None:
    case = Case(5, 3, 16, normalize=True)
    expected = evaluate(shuffle_rank.shuffle_rank_loss_with_metrics, case, make_inputs(case))
    with torch.autocast("cpu", torch.bfloat16):
        ours = evaluate(shuffle_rank.shuffle_rank_loss_with_metrics, case, make_inputs(case))
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


# ----------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize("module", [reference, shuffle_rank], ids=["reference", "op"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(3, 1, 8), "shuffled": torch.zeros(3, 1, 8)}, "S = 1 .*rank undefined"),
        ({"x": torch.zeros(3, 17, 8), "shuffled": torch.zeros(3, 17, 8)}, "S = 17 .*2 and 16"),
        ({"x": torch.zeros(3, 8)}, r"x has shape \[3, 8\], must be \[B, S, D\]"),
        ({"x": torch.zeros(0, 4, 8), "shuffled": torch.zeros(0, 4, 8)}, "at least one sample"),
        ({"x": torch.zeros(3, 4, 2000), "shuffled": torch.zeros(3, 4, 2000)}, "D = 2000"),
        ({"shuffled": torch.zeros(3, 4, 9)}, r"shuffled has shape \[3, 4, 9\] but x has"),
        ({"shuffled": torch.zeros(3, 4, 8).half()}, "shuffled has dtype torch.float16 but x"),
        ({"x": torch.zeros(3, 4, 8).long()}, "x has dtype torch.int64, must be float32"),
        ({"shuffled": torch.zeros(3, 4, 8, device="meta")}, "shuffled is on meta but x is on cpu"),
        ({"permutation": torch.zeros(3, 4)}, "permutation is of torch.float32, must be an int64"),
        ({"permutation": [[0, 1, 2, 3]] * 3}, "permutation is of list"),
        ({"permutation": torch.zeros(3, 3).long()}, r"permutation has shape \[3, 3\], must be"),
        ({"permutation": torch.tensor([[0, 1, 2, 3], [3, 3, 1, 0], [0, 1, 2, 3]])},
         r"permutation\[1\] is \[3, 3, 1, 0\], must hold each of 0 .. 3 once"),
        ({"temperature": 0.0}, "temperature is 0.0, must be a finite number above 0"),
        ({"temperature": torch.tensor(0.1)}, "temperature is a tensor, must be a float"),
        ({"clip": math.nan}, "clip is nan, must be None or a finite number"),
    ],
)  # fmt: skip
def test_bad_argument_is_named(module: object, change: dict[str, object], message: str) -> None:
    arguments = {
        "x": torch.zeros(3, 4, 8),
        "shuffled": torch.zeros(3, 4, 8),
        "permutation": torch.arange(4).expand(3, 4),
    }
    with pytest.raises(ValueError, match=message):
        module.shuffle_rank_loss(**(arguments | change))


# -------------------------------------------------------------------------------------------- GPU
@pytest.mark.gpu
@pytest.mark.parametrize("case", GPU_CASES, ids=str)
def test_kernels_are_no_worse_than_eager(case: Case) -> None:
    ours = evaluate(shuffle_rank.shuffle_rank_loss_with_metrics, case, make_inputs(case, "cuda"))
    assert_right(ours, case, "cuda")


@pytest.mark.gpu
def test_kernels_repeat_bit_by_bit_and_never_wait_for_the_host() -> None:
    case = Case(4096, 2, 64, torch.bfloat16)
    inputs = make_inputs(case, "cuda")
    evaluate(shuffle_rank.shuffle_rank_loss_with_metrics, case, inputs)
    torch.cuda.set_sync_debug_mode("error")
    try:
        runs = [
            evaluate(shuffle_rank.shuffle_rank_loss_with_metrics, case, inputs) for _ in range(2)
        ]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.gpu
def test_cuda_graph_captures_forward_and_backward() -> None:
    case = Case(64, 2, 64)
    inputs = make_inputs(case, "cuda")
    expected = evaluate(shuffle_rank.shuffle_rank_loss_with_metrics, case, inputs)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = evaluate(shuffle_rank.shuffle_rank_loss_with_metrics, case, inputs)
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, expected, strict=True))
