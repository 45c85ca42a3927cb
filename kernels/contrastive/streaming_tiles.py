"""Tiles of the logits, as the forward and the backward in torch operations share them."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fastdual.kernels.contrastive.problem import NORM_FLOOR, Prepared, Problem

# A tile has at most so many columns, and rows so that it fits into the cache of one core.
COLUMNS, LOGITS = 4096, 1 << 18
# Groups of a layout of so many rows are left out as a whole, and not pair by pair.
LARGE_GROUP = 64
# Labels of fewer pairs are compared all with all, which is faster than to look them up.
FEW_PAIRS = 1 << 14


@dataclass(slots=True)
class Tile:
    """Logits [rows, columns], and the pairs among them that are not plain negatives."""

    rows: slice
    columns: slice
    mirrored: slice | None  # columns whose mirror image this tile stands for, too
    query: Tensor  # [rows, D], scaled
    key: Tensor  # [columns, D], scaled
    logits: Tensor
    positive: Tensor  # [pairs], places in the flat tile
    in_mirror: Tensor  # [pairs] bool: the pair's column is mirrored
    excluded: Tensor  # [pairs]: positive, or of one group

    def mirror(self, x: Tensor) -> Tensor:
        """Return the mirrored columns of a tensor like the tile."""
        assert self.mirrored is not None
        return x[:, self.mirrored.start - self.columns.start :]

    def at_positive(self) -> tuple[Tensor, Tensor]:
        """Return rows and logits of the positive pairs, then of those in the mirror image."""
        values = self.logits.view(-1)[self.positive]
        width = self.columns.stop - self.columns.start
        rows = self.positive // width + self.rows.start
        if self.mirrored is None:
            return rows, values
        columns = self.positive[self.in_mirror] % width + self.columns.start
        return torch.cat([rows, columns]), torch.cat([values, values[self.in_mirror]])

    def without_excluded(self, value: float) -> Tensor:
        """Return the logits, once and for all with another value in place of those excluded."""
        self.logits.view(-1).index_fill_(0, self.excluded, value)
        return self.logits


def tiles(problem: Problem, prepared: Prepared) -> Iterator[Tile]:
    """Yield all tiles that are not ignored as a whole.

    The logits of a batch against itself are symmetric: a tile above the diagonal also stands for
    its mirror image.
    """
    own, layout = problem.key is None, problem.settings.layout
    num_rows, num_columns = problem.query.shape[0], problem.columns.shape[0]
    run = layout.group_run if layout is not None and layout.group_run >= LARGE_GROUP else None
    key_scale = prepared.query_scale if own else prepared.key_scale
    all_rows = scaled_rows(problem.query, prepared.query_scale, slice(None), problem)
    all_columns = all_rows if own else scaled_rows(problem.columns, key_scale, slice(None), problem)
    labels = Labels(problem)
    factor = 1.0 / divisor_of(problem)
    height = max(16, LOGITS // min(num_columns, COLUMNS))
    for rows in _spans(0, num_rows, height, run):
        query = all_rows[rows]
        scaled = query * factor
        first = (rows.start if run is None else (rows.start // run + 1) * run) if own else 0
        for columns in _spans(first, num_columns, COLUMNS, None):
            key = all_columns[columns]
            mirrored = None
            if own and columns.stop > rows.stop:
                mirrored = slice(max(columns.start, rows.stop), columns.stop)
            with torch.autocast(query.device.type, enabled=False):
                logits = scaled @ key.T
            yield Tile(
                rows, columns, mirrored, query, key, logits, *labels.pairs(rows, columns, mirrored)
            )


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


def scaled_rows(x: Tensor, scale: Tensor, span: slice, problem: Problem) -> Tensor:
    """Return a span of the rows of x [rows, D], of length 1 where rows are normalised."""
    rows = x[span].to(problem.dtype)
    return rows * scale[span, None] if problem.settings.normalize else rows


def divisor_of(problem: Problem) -> Tensor | float:
    """Return what logits are divided by."""
    value: Tensor | float = problem.temperature_value
    if problem.temperature is not None:
        value = problem.temperature.to(problem.dtype)
    return 1.0 / value if problem.settings.is_scale else value


class Labels:
    """Ids and groups of a problem, and the pairs that meet in them."""

    def __init__(self, problem: Problem) -> None:
        layout, device = problem.settings.layout, problem.query.device
        if layout is None:
            self.ids, self.column_ids = problem.query_ids, problem.column_ids
            self.groups, self.column_groups = problem.query_groups, problem.column_groups
        else:
            place = torch.arange(problem.query.shape[0], device=device)
            sample = place // layout.id_run % layout.num_ids
            ids = sample if problem.query_ids is None else problem.query_ids[sample]
            self.ids, self.groups = ids, place // layout.group_run
            self.column_ids, self.column_groups = self.ids, self.groups
        assert self.column_ids is not None
        self._sorted: dict[str, tuple[Tensor, Tensor]] = {}

    def pairs(
        self, rows: slice, columns: slice, mirrored: slice | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return positive, in_mirror and excluded of a Tile."""
        width = columns.stop - columns.start
        positive = self._meeting("ids", rows, columns)
        excluded = positive
        if self.groups is not None:
            row = positive // width + rows.start
            column = positive % width + columns.start
            assert self.column_groups is not None
            groups = self.column_groups[column]
            positive = positive[(self.groups[row] != groups) | (groups < 0)]
            excluded = torch.cat([positive, self._meeting("groups", rows, columns)])
        if mirrored is None:
            return positive, positive < 0, excluded
        return positive, positive % width >= mirrored.start - columns.start, excluded

    def _meeting(self, name: str, rows: slice, columns: slice) -> Tensor:
        """Return the places in a flat tile where a label that is not negative meets itself."""
        own, other = getattr(self, name)[rows], getattr(self, f"column_{name}")
        width = columns.stop - columns.start
        if len(own) * width <= FEW_PAIRS:
            part = other[columns]
            found = (own[:, None] == part).logical_and_(part >= 0)
            compared: Tensor = found.view(-1).nonzero().view(-1)
            return compared
        if name not in self._sorted:
            self._sorted[name] = torch.sort(other.long(), stable=True)
        values, order = self._sorted[name]
        own = own.long().contiguous()
        first = torch.searchsorted(values, own)
        count = torch.searchsorted(values, own, right=True).sub_(first).masked_fill_(own < 0, 0)
        row = torch.repeat_interleave(count)
        start = first - count.cumsum(0) + count  # of the row's run, less the pairs before it
        column = order[start[row] + torch.arange(len(row), device=row.device)]
        inside = (column >= columns.start) & (column < columns.stop)
        looked_up: Tensor = (row * width + column - columns.start)[inside]
        return looked_up
