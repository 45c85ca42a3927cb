"""The contrastive op: registered, compiled, and differentiated in each of its inputs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from fastdual.kernels import contrastive, reference
from fastdual.kernels.contrastive import op, streaming
from fastdual.kernels.contrastive.loss import batch_problem
from fastdual.kernels.contrastive.problem import Layout, Settings
from tests.kernels.contrastive.cases import Case, call, evaluate, make_inputs, upstream_like


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


def slope_sizes(compute: Callable[..., Any] = op.run) -> list[int]:
    """Size of the slope for a learned temperature, the same without grad, a fixed one, a float."""
    rows, settings = make_inputs(Case(9, None, 8)).query, Settings("mean", "none")
    learned, fixed = torch.tensor(0.1, requires_grad=True), torch.tensor(0.1)
    sizes = []
    for temperature, enabled in ((learned, True), (learned, False), (fixed, True), (0.1, True)):
        with torch.set_grad_enabled(enabled):
            problem = batch_problem(rows, None, Layout(1, 3, 1), temperature, settings)
            sizes.append(compute(problem).slope.numel())
    return sizes


def test_slope_of_the_temperature_is_computed_only_where_it_is_wanted() -> None:
    assert slope_sizes() == [9, 0, 0, 0]
    compiled = torch.compile(op.run, fullgraph=True, backend="aot_eager")
    assert slope_sizes(compiled) == [9, 0, 0, 0]


@pytest.mark.parametrize("columns", [None, 9])
@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
def test_op_is_well_registered(columns: int | None, layout: str) -> None:
    forward, backward = torch.ops.fastdual.contrastive_fwd, torch.ops.fastdual.contrastive_bwd
    query, key, ids, key_ids, groups, key_groups = make_inputs(
        Case(7, columns, 8, normalize=True, layout=layout)
    )
    if columns is None:
        key = key_ids = key_groups = None
    labels = [ids, key_ids, groups, key_groups]
    for settings in (Settings(normalize=True), Settings("mean", "none", True, metrics=False)):
        for requires_grad in (False, True):
            query.requires_grad_(requires_grad)
            temperature = torch.tensor(0.1, requires_grad=requires_grad)
            numbers = settings._replace(learned=requires_grad).encode()
            arguments = query, key, *labels, temperature, 1.0, numbers
            torch.library.opcheck(forward.default, arguments)
        with torch.no_grad():
            loss, num_valid, _, *saved = forward(*arguments)
        torch.library.opcheck(
            backward.default,
            (torch.ones_like(loss), [num_valid, *saved], [True, True, True],
             query.detach(), key, labels, temperature.detach(), 1.0, numbers),
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


def test_every_step_runs_under_the_guard_of_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are launched on the current device, which need not be that of the rows."""
    guarded: list[torch.dtype] = []
    inside: list[str] = []

    @contextmanager
    def guard(x: Tensor) -> Iterator[None]:
        guarded.append(x.dtype)
        yield
        guarded.pop()

    def watched(name: str) -> Callable[..., Any]:
        step = getattr(streaming, name)

        def run(*arguments: Any, **options: Any) -> Any:
            assert guarded == [torch.float64]
            inside.append(name)
            return step(*arguments, **options)

        return run

    monkeypatch.setattr(op, "device_of", guard)
    steps = ["compute_partials", "count_beaten", "merge_partials", "compute_gradients"]
    for name in steps:
        monkeypatch.setattr(streaming, name, watched(name))
    case = Case(9, 11, 8, torch.float64)
    evaluate(contrastive.contrastive_loss_with_metrics, case, make_inputs(case))
    assert inside == steps


def test_autocast_changes_nothing() -> None:
    case = Case(9, 12, 16, normalize=True)
    expected = evaluate(contrastive.contrastive_loss_with_metrics, case, make_inputs(case))
    with torch.autocast("cpu", torch.bfloat16):
        ours = evaluate(contrastive.contrastive_loss_with_metrics, case, make_inputs(case))
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))
