"""Cells: one contestant, on one fold of a data set, with one seed; and the order of them all.

A cell's key is made of what decides its numbers: the videos, fold and seed, every setting, and
VERSION. So a log may be continued on another machine, and by later code that changes no number.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.parts.method import contestants as c
from bench.parts.method.data import DataSet
from bench.parts.method.journal import Row

# To be raised by whoever changes what a cell measures without changing a setting.
VERSION = 1
SEARCH_PERCENT = 30


@dataclass(frozen=True)
class Cell:
    """One measurement.

    Attributes:
        data: The set.
        fold: Whose groups are tested.
        seed: Of weights, order and clips.
        contestant: A name of `contestants`.
        changed: Settings that differ from those stated there, and `length`, a factor of the steps
            of fine-tuning.
        search: Whether it judges these settings, on groups of the training videos.
    """

    data: DataSet
    fold: int
    seed: int
    contestant: str
    changed: c.Settings = field(default_factory=dict)
    search: bool = False

    @property
    def is_pretrained(self) -> bool:
        return self.contestant in c.PRETRAINED

    @property
    def pretraining(self) -> c.Settings:
        """The settings of its pretraining."""
        own = c.PRETRAINED.get(self.contestant, {})
        stride = {"clip.frame_stride": self.data.frame_stride}
        changed = self.changed if self.is_pretrained else {}
        return {**c.PRETRAINING, **stride, **own, **changed, "run.seed": self.seed}

    @property
    def finetuning(self) -> c.Settings:
        """The settings of its fine-tuning, without split and length."""
        changed = {} if self.is_pretrained else dict(self.changed)
        changed.pop("length", None)
        stride = {"clip.frame_stride": self.data.frame_stride}
        return {**c.FINETUNING, **stride, **changed, "run.seed": self.seed}

    @property
    def finetune_steps(self) -> dict[int, int]:
        """The steps of fine-tuning, by per cent of the labels."""
        factor = float(self.changed.get("length", 1.0))
        if self.contestant == c.LONG:
            return {100: round(c.LONGER * c.FINETUNE_STEPS[100])}
        percents = [SEARCH_PERCENT] if self.search else [*c.FINETUNE_STEPS]
        return {percent: round(factor * c.FINETUNE_STEPS[percent]) for percent in percents}

    @property
    def key(self) -> str:
        decides: dict[str, Any] = {
            "version": VERSION,
            "videos": self.data.digest,
            "folds": self.data.num_folds,
            "fold": self.fold,
            "search": self.search,
            "steps": c.STEPS if self.is_pretrained else 0,
            "pretraining": dict(self.pretraining) if self.is_pretrained else None,
            "finetuning": dict(self.finetuning),
            "finetune_steps": self.finetune_steps,
            "baseline": self.contestant if self.contestant in c.BASELINES else None,
        }
        text = json.dumps(decides, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __str__(self) -> str:
        changed = "".join(f", {key} {value}" for key, value in self.changed.items())
        kind = "search" if self.search else f"fold {self.fold}"
        return f"{self.data.name}, {kind}, seed {self.seed}: {self.contestant}{changed}"


def schedule(
    sets: Sequence[DataSet], seeds: int, rows: Sequence[Row], names: Sequence[str]
) -> list[Cell]:
    """Return the cells of the comparison in the order in which they are to be measured.

    Round by round, so that it may be stopped anywhere: a round is a fold of a seed of every set.

    Args:
        sets: The first of them is the one that the claim is made on.
        seeds: Of every fold.
        rows: Of the log: a search that is complete there decides the settings.
        names: Contestants.
    """
    rounds = max(data.num_folds for data in sets) * seeds
    cells = []
    for number, data in itertools.product(range(rounds), sets):
        seed, fold = divmod(number, data.num_folds)
        if seed >= seeds:
            continue
        cheap = [Cell(data, fold, 0, name) for name in c.BASELINES if seed == 0]
        chosen = {name: settings_of(name, data, rows) for name in c.CONTESTANTS}
        trained = [
            Cell(data, fold, seed, name, chosen[name]) for name in c.CONTESTANTS if name in names
        ]
        cells += cheap + trained
    return cells


def search(data: DataSet, contestant: str) -> Iterator[Cell]:
    """Yield the cells that judge the settings of a contestant, every combination of its grid."""
    grid = c.GRID.get(contestant, {})
    if grid:
        for values in itertools.product(*grid.values()):
            changed = dict(zip(grid, values, strict=True))
            yield Cell(data, 0, 0, contestant, changed, search=True)


def settings_of(contestant: str, data: DataSet, rows: Sequence[Row]) -> c.Settings:
    """Return the best settings that a complete search found, {} while there is none.

    Contestants without a grid of their own take the settings of what they vary.
    """
    of = {c.LONG: c.SCRATCH, "clip/8+rank+coherence": c.FULL}.get(contestant, contestant)
    judged = [row for row in rows if row["search"]]
    scores = {row["key"]: row["means"][f"finetuned_{SEARCH_PERCENT}"] for row in judged}
    cells = list(search(data, of))
    if not cells or any(cell.key not in scores for cell in cells):
        return {}
    return max(cells, key=lambda cell: scores[cell.key]).changed
