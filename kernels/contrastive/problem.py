"""The inputs of one contrastive softmax, as streaming.py and contrastive_triton.py take them."""

from typing import NamedTuple

import torch
from torch import Tensor


class Layout(NamedTuple):
    """What the rows of a batch against itself are, by their place: no tensors need to say it.

    Row i is of sample s = (i // id_run) % num_ids, whose id is query_ids[s], or s itself where
    there are no ids; its group is i // group_run.
    """

    id_run: int
    num_ids: int
    group_run: int


class Problem(NamedTuple):
    """N rows against M candidates; nothing here is checked, that is done by the public functions.

    A key of None says that the rows are their own candidates, ids and groups included: then the
    logit matrix is symmetric and the backward needs half the products.
    """

    query: Tensor  # [N, D]
    key: Tensor | None  # [M, D]
    query_ids: Tensor | None  # [N] int64 or int32; with a layout [num_ids] or None
    key_ids: Tensor | None  # [M]
    query_groups: Tensor | None  # [N]
    key_groups: Tensor | None  # [M]
    temperature: Tensor | None  # 0-d; None: temperature_value holds
    temperature_value: float
    positives: str  # "sum" or "mean"
    normalize: bool
    precision: str  # "ieee" or "tf32"
    is_scale: bool = False  # the temperature is its own inverse, that is, what logits multiply by
    layout: Layout | None = None  # with key None and without groups only
    learned: bool = False  # a gradient of the temperature is wanted: the forward gathers its slope

    @property
    def columns(self) -> Tensor:
        """The candidates [M, D]."""
        return self.query if self.key is None else self.key

    @property
    def column_ids(self) -> Tensor | None:
        return self.query_ids if self.key_ids is None else self.key_ids

    @property
    def column_groups(self) -> Tensor | None:
        return self.query_groups if self.key is None else self.key_groups

    @property
    def dtype(self) -> torch.dtype:
        """Of logits, losses and statistics: float64 for float64 inputs, else float32."""
        return torch.promote_types(self.query.dtype, torch.float32)


class Partials(NamedTuple):
    """What a row has gathered from some of its candidates; see FIELDS."""

    fields: Tensor  # [P, F, N]: P disjoint parts of the candidates
    query_scale: Tensor  # [N], 1 / length of each row if they are normalised here, else [0]
    key_scale: Tensor  # [M] likewise; [0] too where the rows are their own candidates


class Merged(NamedTuple):
    """The loss, and what the backward needs of a row besides the inputs."""

    loss: Tensor  # 0-d, or [N] for reduction "none"
    num_valid: Tensor  # 0-d: rows that have a positive
    hits: Tensor  # [3, N] bool: top1, top5, valid; [3, 0] without metrics
    statistics: Tensor  # [2, N] for "sum", [4, N] for "mean"; see streaming.statistics_of
    slope: Tensor  # d loss / d log(1 / temperature), shaped as the loss; [0] if it is not learned


# Fields of Partials. Log-sum-exps are of the negatives' and of the positives' logits; -inf: there
# are none. Means are of the same logits, weighted by their softmax; if the temperature is learned.
NEGATIVE_LSE, POSITIVE_LSE, POSITIVE_COUNT, POSITIVE_SUM, NEGATIVE_MEAN, POSITIVE_MEAN = range(6)
# With metrics only: the best positive's logit, and the five best negatives' in falling order.
BEST_POSITIVE, TOP_NEGATIVES, NUM_TOP = 6, 7, 5
NUM_FIELDS, NUM_FIELDS_WITH_METRICS = 6, 12
# Lengths below this count as this, so that a row of zeros stays finite (as torch's F.normalize
# does).
NORM_FLOOR = 1e-12
