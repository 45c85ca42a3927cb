"""Tiles of the logits, as the forward and the backward in torch operations share them."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fastdual.kernels.contrastive.problem import NORM_FLOOR, Problem

TILE = 256  # the matrices of one tile fit into the cache of one core
# Tiles end where a group of at least this many rows ends: those within it are left out as a whole.
LARGE_GROUP = 64


class Tile(NamedTuple):
    """A part [rows, columns] of the logits, and the kinds of its pairs.

    None stands for a mask without a pair: most tiles hold negatives alone, and take half the time.
    """

    logits: Tensor
    positive: Tensor | None
    excluded: Tensor | None  # positive, or of one group: no negatives


def spans(length: int, run: int | None = None) -> Iterator[slice]:
    """Yield spans of at most TILE out of `length` rows, each within one run."""
    run = run or length
    for first in range(0, length, run):
        for start in range(first, first + run, TILE):
            yield slice(start, min(start + TILE, first + run, length))


def length_scales(x: Tensor, problem: Problem) -> Tensor:
    """Return 1 / length of each row of x [rows, D], or [0] where rows are not normalised."""
    if not problem.settings.normalize:
        return x.new_empty(0, dtype=problem.dtype)
    squares = x.new_empty(x.shape[0], dtype=problem.dtype)
    for span in spans(x.shape[0]):
        squares[span] = x[span].to(problem.dtype).square().sum(dim=1)
    return 1.0 / squares.sqrt().clamp(min=NORM_FLOOR)


def scaled_rows(x: Tensor, scale: Tensor, span: slice, problem: Problem) -> Tensor:
    """Return a span of the rows of x [rows, D], of length 1 where rows are normalised."""
    rows = x[span].to(problem.dtype)
    return rows * scale[span, None] if problem.settings.normalize else rows


def temperature_of(problem: Problem) -> Tensor | float:
    """Return what logits are divided by."""
    value: Tensor | float = problem.temperature_value
    if problem.temperature is not None:
        value = problem.temperature.to(problem.dtype)
    return 1.0 / value if problem.settings.is_scale else value


def tiles(problem: Problem) -> Iterator[tuple[slice, slice, bool]]:
    """Yield rows and columns of each tile that is not empty, and whether it stands for two.

    The logits of a batch against itself are symmetric: a tile above the diagonal also stands for
    its mirror image. Tiles within one group of a layout are ignored as a whole, and left out.
    """
    own, run, layout = problem.key is None, None, problem.settings.layout
    if layout is not None and layout.group_run >= LARGE_GROUP:
        run = layout.group_run
    for rows in spans(problem.query.shape[0], run):
        for columns in spans(problem.columns.shape[0], run):
            if not (own and columns.start < rows.start or _in_one_group(problem, rows, columns)):
                yield rows, columns, own and columns.start > rows.start


def _in_one_group(problem: Problem, rows: slice, columns: slice) -> bool:
    layout = problem.settings.layout
    if layout is None:
        return False
    edges = rows.start, rows.stop - 1, columns.start, columns.stop - 1
    return len({edge // layout.group_run for edge in edges}) == 1


def make_tile(problem: Problem, q: Tensor, k: Tensor, rows: slice, columns: slice) -> Tile:
    """Return the tile of `rows` and `columns` of a problem.

    Args:
        problem: Ids, groups and temperature.
        q: [rows, D] embeddings of the rows.
        k: [columns, D] embeddings of the candidates.
        rows: Place of the rows among the N.
        columns: Place of the candidates among the M.
    """
    logits = (q @ k.T).div_(temperature_of(problem))
    row_ids, row_groups = _labels(problem, rows, columns=False)
    ids, groups = _labels(problem, columns, columns=True)
    same = problem.key is None and rows == columns
    positive, ignored = _matches(row_ids, ids, same), None
    if row_groups is not None and groups is not None:
        ignored = _matches(row_groups, groups, same)
    if positive is None or ignored is None:
        return Tile(logits, positive, ignored if positive is None else positive)
    return Tile(logits, positive & ~ignored, positive | ignored)


def _labels(problem: Problem, span: slice, *, columns: bool) -> tuple[Tensor, Tensor | None]:
    """Return ids and groups of a span of rows, or of columns."""
    if problem.settings.layout is not None:
        id_run, num_ids, group_run = problem.settings.layout
        place = torch.arange(span.start, span.stop, device=problem.query.device)
        sample = place // id_run % num_ids
        placed_ids = sample if problem.query_ids is None else problem.query_ids[sample]
        return placed_ids, place // group_run
    ids = problem.column_ids if columns else problem.query_ids
    groups = problem.column_groups if columns else problem.query_groups
    assert ids is not None
    return ids[span], None if groups is None else groups[span]


def _matches(rows: Tensor, columns: Tensor, same: bool) -> Tensor | None:
    """Return where a label that is not negative meets itself [rows, columns]; None if nowhere.

    With `same` both are the same labels, so that some do meet, and nothing is looked up.
    """
    if not (same or may_meet(rows, columns)):
        return None
    return (rows[:, None] == columns).logical_and_(columns >= 0)


def may_meet(rows: Tensor, columns: Tensor) -> bool:
    """Return whether a label is in both. On a GPU the host would have to wait: True unseen."""
    return rows.device.type != "cpu" or bool(torch.isin(rows, columns).any())
