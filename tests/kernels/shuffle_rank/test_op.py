"""The shuffle-rank op: registered, compiled, and differentiated in each of its inputs."""

import pytest
import torch

from fastdual.kernels import reference, shuffle_rank
from tests.kernels.shuffle_rank.cases import Case, evaluate, make_inputs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "segments first"])
def test_op_is_well_registered(dtype: torch.dtype, layout: str) -> None:
    x, shuffled, permutation = make_inputs(Case(3, 4, 16, dtype, layout=layout))
    forward = torch.ops.fastdual.shuffle_rank_fwd.default
    backward = torch.ops.fastdual.shuffle_rank_bwd.default
    options = (0.05, 5.0, True)
    torch.library.opcheck(forward, (x, shuffled, permutation, *options))
    x, shuffled = x.requires_grad_(), shuffled.requires_grad_()
    torch.library.opcheck(forward, (x, shuffled, permutation, *options))
    arguments = (torch.tensor(1.0), x.detach(), shuffled.detach(), permutation)
    torch.library.opcheck(backward, (*arguments, 0.05, None, False))


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
