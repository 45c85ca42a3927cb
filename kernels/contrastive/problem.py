"""The arguments and the results of one contrastive softmax, as all of its steps pass them on."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Self, get_args

import torch
from torch import Tensor

Positives = Literal["sum", "mean"]
Reduction = Literal["mean", "none", "sum"]
Precision = Literal["ieee", "tf32"]
# Of each word, the place in its list is the number that an op is given.
POSITIVES: tuple[Positives, ...] = get_args(Positives)
REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


Needs = tuple[bool, bool, bool]  # which gradients: of query, key and temperature
Gradients = tuple[Tensor, Tensor, Tensor]  # of those; [0] for each that is not needed


class Layout(NamedTuple):
    """Ids and groups that follow from the places of rows contrasted with themselves.

    Row i belongs to sample s = (i // id_run) % num_ids and to group i // group_run. The id of the
    row is query_ids[s], or s itself where there are no ids.
    """

    id_run: int
    num_ids: int
    group_run: int


class Settings(NamedTuple):
    """The arguments of a contrastive loss that are no tensors."""

    positives: Positives = "sum"
    reduction: Reduction = "mean"
    normalize: bool = False
    precision: Precision = "ieee"
    metrics: bool = True
    is_scale: bool = False  # the temperature is inverted: logits are multiplied by it
    learned: bool = False  # a gradient of the temperature is wanted: the forward prepares it
    layout: Layout | None = None  # only with key None, and without groups

    def encode(self) -> list[int]:
        """Return the settings as numbers, which is the form that an op can be given."""
        return [
            POSITIVES.index(self.positives),
            REDUCTIONS.index(self.reduction),
            int(self.normalize),
            PRECISIONS.index(self.precision),
            int(self.metrics),
            int(self.is_scale),
            int(self.learned),
            *(self.layout or ()),
        ]

    @classmethod
    def decode(cls, numbers: Sequence[int]) -> Self:
        """Return the settings that were encoded."""
        positives, reduction, normalize, precision, metrics, is_scale, learned, *layout = numbers
        return cls(
            POSITIVES[positives], REDUCTIONS[reduction], bool(normalize), PRECISIONS[precision],
            bool(metrics), bool(is_scale), bool(learned), Layout(*layout) if layout else None,
        )  # fmt: skip


class Problem(NamedTuple):
    """N rows against M candidates, checked already.

    A key of None means that the rows are their own candidates, ids and groups included. The matrix
    of logits is then symmetric, and the backward needs half the products.
    """

    query: Tensor  # [N, D]
    key: Tensor | None  # [M, D]
    query_ids: Tensor | None  # [N] int64 or int32; with a layout [num_ids] or None
    key_ids: Tensor | None  # [M]
    query_groups: Tensor | None  # [N]
    key_groups: Tensor | None  # [M]
    temperature: Tensor | None  # 0-d; None: temperature_value holds
    temperature_value: float
    settings: Settings

    @property
    def columns(self) -> Tensor:
        """The candidates [M, D]."""
        return self.query if self.key is None else self.key

    @property
    def column_ids(self) -> Tensor | None:
        """The ids of the candidates [M]."""
        return self.query_ids if self.key_ids is None else self.key_ids

    @property
    def column_groups(self) -> Tensor | None:
        """The groups of the candidates [M]."""
        return self.query_groups if self.key is None else self.key_groups

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of logits, losses and statistics: float64 for float64 inputs, else float32."""
        return torch.float64 if self.query.dtype == torch.float64 else torch.float32


def written_out(problem: Problem, first: int = 0) -> Problem:
    """Return the same problem without a layout: ids (where there are none) and groups by number.

    Args:
        problem: With or without a layout.
        first: The lowest of the numbers.
    """
    rows, ids, layout = problem.query, problem.query_ids, problem.settings.layout
    if layout is None:
        return problem
    row = torch.arange(len(rows), device=rows.device)
    sample = (row if layout.id_run == 1 else row // layout.id_run) % layout.num_ids
    group = row if layout.group_run == 1 else row // layout.group_run
    return problem._replace(
        query_ids=sample + first if ids is None else ids[sample],
        query_groups=group + first if first else group,
        settings=problem.settings._replace(layout=None),
    )


class Prepared(NamedTuple):
    """What a forward works out first, for all of its steps and the backward."""

    query_scale: Tensor  # [N], 1 / length of each row if rows are normalised here, else [0]
    key_scale: Tensor  # [M] likewise; also [0] where the rows are their own candidates
    flags: Tensor  # int8 of blocks of the logits that need masks, see triton_launch; or empty


def flags_shape(num_rows: int, num_columns: int, *, by_place: bool) -> tuple[int, int]:
    """Return the shape of the flags: one for 64 x 64 logits, an even number either way.

    Tiles of 128 rows or columns read two. There are none where places tell, and none of few logits:
    masks cost less than a launch.
    """
    if by_place or num_rows * num_columns <= FEW_LOGITS:
        return 0, 0
    return 2 * (-(-num_rows // 128)), 2 * (-(-num_columns // 128))


class Partials(NamedTuple):
    """What each row gathers from some of its candidates; the fields are numbered below."""

    fields: Tensor  # [P, F, N]: P disjoint parts of the candidates
    prepared: Prepared


class Merged(NamedTuple):
    """The loss, and what the backward needs of each row besides the inputs."""

    loss: Tensor  # 0-d, or [N] for reduction "none"
    num_valid: Tensor  # 0-d: number of rows that have a positive
    hits: Tensor  # [3, N] bool: top1, top5, valid; [3, 0] without metrics
    statistics: Tensor  # [2, N] for "sum", [4, N] for "mean"; see streaming.statistics_of
    slope: Tensor  # d loss / d log(1 / temperature), shaped as the loss; [0] if it is not learned


class Saved(NamedTuple):
    """What the backward takes over from the forward: fields of Merged, and what was prepared."""

    num_valid: Tensor
    statistics: Tensor
    slope: Tensor
    prepared: Prepared


# Fields of Partials. Log-sum-exps are those of the negative and of the positive logits, -inf where
# there are none. Counts and sums are those of the positives, for positives="mean". Means are of the
# same logits as the log-sum-exps, weighted by their softmax, if the temperature is learned.
NEGATIVE_LSE, POSITIVE_LSE, BEST_POSITIVE, POSITIVE_COUNT, POSITIVE_SUM = range(5)
NEGATIVE_MEAN, POSITIVE_MEAN, NUM_FIELDS = 5, 6, 7
# Lengths below this count as this, so that a row of zeros stays finite, as in torch's F.normalize.
NORM_FLOOR = 1e-12
FEW_LOGITS = 1 << 20
