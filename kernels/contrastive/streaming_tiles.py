"""Tiles of the logits, as the forward and the backward in torch operations share them."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fastdual.kernels.contrastive.problem import NORM_FLOOR, Prepared, Problem, written_out

# A tile has at most so many columns, and rows so that it fits into the cache of one core.
COLUMNS, LOGITS = 4096, 1 << 18
# Groups of a layout of so many rows are left out as a whole, and not pair by pair.
LARGE_GROUP = 64
# Labels of fewer pairs are compared all with all, which is faster than to look them up.
FEW_PAIRS = 1 << 14


class Tile(NamedTuple):
    """Logits [rows, columns], and the pairs among them that are not plain negatives."""

    rows: slice
    columns: slice
    mirrored: slice | None  # columns whose mirror image this tile stands for, too
    query: Tensor  # [rows, D], scaled
    key: Tensor  # [columns, D], scaled
    logits: Tensor
    positive: Tensor  # [pairs], places in the flat tile
    excluded: Tensor  # [pairs]: positive, or of one group

    def mirror(self, x: Tensor) -> Tensor:
        """Return the mirrored columns of a tensor like the tile."""
        assert self.mirrored is not None
        return x[:, self.mirrored.start - self.columns.start :]

    def positive_pairs(self) -> tuple[Tensor, Tensor]:
        """Return the rows of the positive pairs and their places, then of the mirror image."""
        width = self.columns.stop - self.columns.start
        rows = self.positive // width + self.rows.start
        if self.mirrored is None:
            return rows, self.positive
        columns = self.positive % width + self.columns.start
        inside = columns >= self.mirrored.start
        places = torch.cat([self.positive, self.positive[inside]])
        return torch.cat([rows, columns[inside]]), places

    def without_excluded(self) -> Tensor:
        """Return the logits, once and for all with -inf in place of those excluded."""
        self.logits.view(-1).index_fill_(0, self.excluded, -torch.inf)
        return self.logits


def tiles(problem: Problem, prepared: Prepared) -> Iterator[Tile]:
    """Yield all tiles that are not ignored as a whole.

    The logits of a batch against itself are symmetric: a tile above the diagonal also stands for
    its mirror image.
    """
    own, layout = problem.key is None, problem.settings.layout
    num_rows, num_columns = problem.query.shape[0], problem.columns.shape[0]
    run = layout.group_run if layout is not None and layout.group_run >= LARGE_GROUP else None
    problem = written_out(problem)
    if run is not None:
        problem = problem._replace(query_groups=None)
    key_scale = prepared.query_scale if own else prepared.key_scale
    all_rows = scaled_rows(problem.query, prepared.query_scale, problem)
    all_columns = all_rows if own else scaled_rows(problem.columns, key_scale, problem)
    labels = _Labels(problem)
    factor = 1.0 / divisor_of(problem)
    height = max(16, LOGITS // min(num_columns, COLUMNS))
    for rows in _spans(0, num_rows, height, run):
        query = all_rows[rows]
        scaled = query * factor
        first = (rows.start if run is None else (rows.start // run + 1) * run) if own else 0
        for columns in _spans(first, num_columns, COLUMNS, COLUMNS):
            key = all_columns[columns]
            mirrored = None
            if own and columns.stop > rows.stop:
                mirrored = slice(max(columns.start, rows.stop), columns.stop)
            with torch.autocast(query.device.type, enabled=False):
                logits = scaled @ key.T
            yield Tile(rows, columns, mirrored, query, key, logits, *labels.pairs(rows, columns))


def _spans(first: int, last: int, length: int, run: int | None) -> Iterator[slice]:
    """Yield spans of at most `length` from `first` to `last`, each within one run."""
    run = run or max(last, 1)
    while first < last:
        end = min(first + length, last, (first // run + 1) * run)
        yield slice(first, end)
        first = end


def length_scales(x: Tensor, problem: Problem) -> Tensor:
    """Return 1 / length of each row of x [rows, D], or [0] where rows are not normalised."""
    if not problem.settings.normalize:
        return x.new_empty(0, dtype=problem.dtype)
    lengths: Tensor = torch.linalg.vector_norm(x, dim=1, dtype=problem.dtype)
    return lengths.clamp_(min=NORM_FLOOR).reciprocal_()


def scaled_rows(x: Tensor, scale: Tensor, problem: Problem) -> Tensor:
    """Return the rows of x [rows, D], of length 1 where rows are normalised."""
    rows = x.to(problem.dtype)
    return rows * scale[:, None] if problem.settings.normalize else rows


def divisor_of(problem: Problem) -> Tensor | float:
    """Return what logits are divided by."""
    value: Tensor | float = problem.temperature_value
    if problem.temperature is not None:
        value = problem.temperature.to(problem.dtype)
    return 1.0 / value if problem.settings.is_scale else value


class _Labels:
    """Ids and groups of a problem, and the pairs that meet in them."""

    def __init__(self, problem: Problem) -> None:
        assert problem.query_ids is not None and problem.column_ids is not None
        self._ids = problem.query_ids.long(), problem.column_ids.long()
        self._groups = None
        if problem.query_groups is not None and problem.column_groups is not None:
            self._groups = problem.query_groups.long(), problem.column_groups.long()
        self._sorted: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def pairs(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """Return positive and excluded of a Tile."""
        row, column = self._meeting(self._ids, rows, columns)
        width = columns.stop - columns.start
        positive = row * width + column
        if self._groups is None:
            return positive, positive
        groups, others = self._groups[0][rows][row], self._groups[1][columns][column]
        positive = positive[(groups != others) | (groups < 0)]
        row, column = self._meeting(self._groups, rows, columns)
        return positive, torch.cat([positive, row * width + column])

    def _meeting(
        self, labels: tuple[Tensor, Tensor], rows: slice, columns: slice
    ) -> tuple[Tensor, Tensor]:
        """Return rows and columns in a tile where a label that is not negative meets itself."""
        own, other = labels[0][rows], labels[1]
        if len(own) * (columns.stop - columns.start) <= FEW_PAIRS:
            found = (own[:, None] == other[columns]) & (own >= 0)[:, None]
            row, column = found.nonzero().unbind(1)
            return row, column
        # In the block of columns that the tile is a part of, which many tiles share.
        start = columns.start // COLUMNS * COLUMNS
        at = id(labels), start
        if at not in self._sorted:
            self._sorted[at] = torch.sort(other[start : start + COLUMNS], stable=True)
        values, order = self._sorted[at]
        first = torch.searchsorted(values, own)
        count = torch.searchsorted(values, own, right=True).sub_(first).masked_fill_(own < 0, 0)
        row = torch.repeat_interleave(count)
        before = count.cumsum(0) - count  # pairs of the rows before
        column = order[(first - before)[row] + torch.arange(len(row), device=row.device)]
        column += start - columns.start
        inside = column >= 0
        return row[inside], column[inside]
