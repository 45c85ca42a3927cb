"""Which rows of bench.method share a table, and how tables and rows are named.

A table holds rows that may be compared: one data set, recipe, number of steps and of clips, and
equal settings except for those of the losses. A contestant whose losses have other settings than
those of the full objective is in the same table, and its name says what differs.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.parts.method.run import CONTESTANTS, OBJECTIVES
from bench.parts.results import Row

PLAIN, FULL = OBJECTIVES[0], OBJECTIVES[-1]
_LOSS = "loss."
_WAYS = ("run.", "data.num_workers", "data.prefetch", "data.decode")


def is_way(key: str) -> bool:
    """Return whether a key of a config affects how the work is done or logged, not its result."""
    return key.startswith(_WAYS)


@dataclass(frozen=True)
class Table:
    """Rows that may be compared.

    Attributes:
        name: The data set and, if it has several tables, what distinguishes this one.
        rows: The rows, each with its name in the table under "label".
        labels: The names, in the order in which they are shown.
        steps: Training steps.
        settings: Settings of the full objective's rows, as text.
    """

    name: str
    rows: tuple[Row, ...]
    labels: tuple[str, ...]
    steps: int
    settings: str

    @property
    def data(self) -> str:
        """Return the name of the data set."""
        return str(self.rows[0]["data"])

    def labels_of(self, contestant: str) -> list[str]:
        """Return the names of a contestant here: its own, then those with other loss settings."""
        found = {row["label"] for row in self.rows if row["contestant"] == contestant}
        return [label for label in self.labels if label in found]

    def values(self, label: str, measure: str) -> dict[int, float]:
        """Return a measure by seed, for the seeds that have it."""
        found = {row["seed"]: row[measure] for row in self.rows if row["label"] == label}
        # Rows of older versions have a ratio, but it is that of a head with random weights.
        if measure == "segment_variance_ratio" and label in self.labels_of(PLAIN):
            return {}
        return {seed: value for seed, value in found.items() if value is not None}


def tables(rows: Sequence[Row]) -> list[Table]:
    """Return the tables: data sets in order of appearance, each with the longest training first."""
    steps: dict[Any, int] = {}
    for row in rows:
        budget = (row["data"], row["fingerprint"], row["budget"])
        steps[budget] = max(steps.get(budget, 0), int(row["steps"]))
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        own = steps[row["data"], row["fingerprint"], row["budget"]]
        key = (row["data"], own, _shared(row), row["clips_per_video"], row["fingerprint"])
        found.setdefault((*key, row["recipe"]), []).append(row)
    sets = [row["data"] for row in rows]
    keys = sorted(found, key=lambda key: (sets.index(key[0]), -key[1]))
    return [_table(_name(key, keys), found[key], steps=key[1]) for key in keys]


def _name(key: tuple[Any, ...], keys: Iterable[tuple[Any, ...]]) -> str:
    """Return the data set and as much of the rest as distinguishes it from its other tables."""
    describe: tuple[Callable[[Any], str], ...] = (
        lambda steps: f"{steps} steps",
        lambda shared: " ".join(f"{name}={value}" for name, value in shared),
        lambda clips: f"{clips} clips per video",
        lambda fingerprint: f"data {fingerprint[:8]}",
        lambda recipe: f"recipe {recipe}",
    )
    parts = [key[0]]
    others = [other for other in keys if other[0] == key[0] and other != key]
    for position, text in enumerate(describe, start=1):
        if others:
            parts.append(text(key[position]))
            others = [other for other in others if other[position] == key[position]]
    return ", ".join(parts)


def _table(name: str, rows: Sequence[Row], *, steps: int) -> Table:
    trained = [row for row in rows if row["contestant"] in OBJECTIVES]
    base = next((row for row in trained if row["contestant"] == FULL), (trained or rows)[0])
    labelled: dict[tuple[str, int], Row] = {}
    for row in rows:
        label = row["contestant"] + _differences(row, base)
        labelled.setdefault((label, row["seed"]), {**row, "label": label})
    found = {row["label"]: row["contestant"] for row in labelled.values()}
    labels = sorted(found, key=lambda label: (CONTESTANTS.index(found[label]), len(label), label))
    shown = (f"{k}={v}" for k, v in _settings(base).items() if not is_way(k))
    return Table(name, tuple(labelled.values()), tuple(labels), steps, " ".join(shown))


def _differences(row: Row, base: Row) -> str:
    """Return, in words, which loss settings of a row differ from those of the base."""
    parts = [f"{_LOSS}{part}_" for part in row["contestant"].split("+")]
    ours, theirs = _settings(row), _settings(base)
    texts = []
    for key in sorted({*ours, *theirs}):
        # Settings of a loss that the contestant does not have change nothing.
        if key.startswith(tuple(parts)) and _number(ours.get(key)) != _number(theirs.get(key)):
            value = ours.get(key, "of the recipe")
            texts.append(f"{key.removeprefix(_LOSS).replace('_', ' ')} {value}")
    return "".join(f", {text}" for text in texts)


def _shared(row: Row) -> tuple[tuple[str, str], ...]:
    """Return the settings that all rows of a table have in common."""
    settings = _settings(row)
    kept = (key for key in sorted(settings) if not is_way(key) and not key.startswith(_LOSS))
    return tuple((key, _number(settings[key])) for key in kept)


def _settings(row: Row) -> Mapping[str, str]:
    pairs = (text.partition("=") for text in str(row["settings"]).split())
    return {key: value for key, _, value in pairs}


def _number(text: str | None) -> str:
    """Return the same text for the same number: 3e-4 and 0.0003."""
    try:
        return repr(float(text or ""))
    except ValueError:
        return str(text)
