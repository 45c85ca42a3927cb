"""The streaming path: the same result in tiles, and never the whole matrix of logits."""

import pytest
import torch

from fastdual.kernels.contrastive import contrastive_loss_with_metrics, streaming, streaming_tiles
from fastdual.kernels.contrastive.loss import batch_problem
from fastdual.kernels.contrastive.problem import Layout
from tests.kernels.contrastive.cases import Case, evaluate, fused, make_inputs
from tests.numerics import LargestTensor


def small_tiles(monkeypatch: pytest.MonkeyPatch, side: int) -> None:
    """Tiles of `side` rows, of 16 at least, and as many columns."""
    monkeypatch.setattr(streaming_tiles, "COLUMNS", side)
    monkeypatch.setattr(streaming_tiles, "LOGITS", side * side)


@pytest.mark.parametrize("positives", ["sum", "mean"])
@pytest.mark.parametrize("columns", [None, 37])
@pytest.mark.parametrize("normalize", [False, True])
def test_tiles_do_not_change_the_result(
    positives: str, columns: int | None, normalize: bool, monkeypatch, nan_memory
) -> None:
    case = Case(29, columns, 12, torch.float64, positives, "none", normalize)
    whole = evaluate(contrastive_loss_with_metrics, case, make_inputs(case))
    for tile in (1, 8, 29):
        small_tiles(monkeypatch, tile)
        tiled = evaluate(contrastive_loss_with_metrics, case, make_inputs(case))
        for name, ours, expected in zip(whole._fields, tiled, whole, strict=True):
            if ours.dtype == torch.bool:
                assert torch.equal(ours, expected), name
            else:
                torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("place", [Layout(1, 70, 70), Layout(2, 35, 70), Layout(2, 70, 2)])
def test_tiles_do_not_change_the_result_of_a_layout(place: Layout, monkeypatch) -> None:
    case = Case(140, None, 12, torch.float64, reduction="none", place=place)
    explicit = evaluate(contrastive_loss_with_metrics, case, make_inputs(case))
    for tile in (16, 33, 1024):
        small_tiles(monkeypatch, tile)
        placed = evaluate(fused(case), case, make_inputs(case))
        for name, ours, expected in zip(explicit._fields, placed, explicit, strict=True):
            if ours.dtype == torch.bool:
                assert torch.equal(ours, expected), name
            else:
                torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


def test_images_meet_texts_alone() -> None:
    """Two groups: one tile above the diagonal, which stands for its mirror image too."""
    rows = make_inputs(Case(140, None, 8)).query
    problem = batch_problem(rows, None, Layout(1, 70, 70), 0.1)
    prepared = streaming.compute_partials(problem).prepared
    (tile,) = streaming_tiles.tiles(problem, prepared)
    assert (tile.rows, tile.columns, tile.mirrored) == (
        slice(0, 70), slice(70, 140), slice(70, 140)
    )  # fmt: skip


@pytest.mark.parametrize("columns", [None, 700])
@pytest.mark.parametrize("normalize", [False, True])
def test_never_holds_the_matrix(columns: int | None, normalize: bool, monkeypatch) -> None:
    """The largest tensor of forward and backward is an embedding or a tile, not N x M."""
    small_tiles(monkeypatch, 32)
    case = Case(600, columns, 8, normalize=normalize)
    inputs = make_inputs(case)
    with LargestTensor() as seen:
        evaluate(contrastive_loss_with_metrics, case, inputs)
    assert seen.numel <= 700 * 10 < 600 * 600


@pytest.mark.parametrize("ids", ["some", "all", "none", "high bits"])
@pytest.mark.parametrize("columns", [None, 37])
def test_pairs_that_are_looked_up_are_those_that_are_compared(
    ids: str, columns: int | None, monkeypatch
) -> None:
    """Few labels are compared all with all, many are sorted; a tile begins within a block."""
    small_tiles(monkeypatch, 8)
    monkeypatch.setattr(streaming_tiles, "COLUMNS", 24)
    case = Case(29, columns, 12, torch.float32, "mean", "none", ids=ids)
    inputs = make_inputs(case)
    compared = evaluate(contrastive_loss_with_metrics, case, inputs)
    monkeypatch.setattr(streaming_tiles, "FEW_PAIRS", 0)
    looked_up = evaluate(contrastive_loss_with_metrics, case, inputs)
    for ours, other in zip(looked_up, compared, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-6, atol=1e-7)


def test_half_precision_is_added_up_in_float32(monkeypatch) -> None:
    small_tiles(monkeypatch, 8)
    case = Case(40, 64, 16, torch.bfloat16)
    inputs = make_inputs(case)
    ours = evaluate(contrastive_loss_with_metrics, case, inputs)
    wide = inputs._replace(query=inputs.query.float(), key=inputs.key.float())
    exact = evaluate(contrastive_loss_with_metrics, case, wide)
    assert torch.equal(ours.loss, exact.loss)
    assert torch.equal(ours.grad_query, exact.grad_query.bfloat16())
    assert torch.equal(ours.grad_key, exact.grad_key.bfloat16())


def test_two_runs_agree_bit_by_bit() -> None:
    case = Case(50, None, 16, reduction="none", positives="mean", normalize=True)
    inputs = make_inputs(case)
    first, second = (evaluate(contrastive_loss_with_metrics, case, inputs) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("temperature", [0.01, 0.5])
def test_many_tiles_round_no_more_than_one(temperature: float, monkeypatch) -> None:
    """A log-sum-exp that is rounded with each of 2,000 tiles would be off in the fifth digit."""
    case = Case(8, 16_000, 16, reduction="none", temperature=temperature, groups=False)
    inputs = make_inputs(case)
    wide = inputs._replace(query=inputs.query.double(), key=inputs.key.double())
    exact = evaluate(contrastive_loss_with_metrics, case, wide)
    errors = {}
    for tile in (8, 16_000):
        small_tiles(monkeypatch, tile)
        ours = evaluate(contrastive_loss_with_metrics, case, inputs)
        errors[tile] = ((ours.loss - exact.loss).abs() / exact.loss.abs().clamp(min=1)).max()
    assert errors[8] <= 2 * errors[16_000] + 1e-6
