"""What the rows of bench.method say: means over seeds, the picture, the conclusion in words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from scipy import stats

from bench.parts.markdown import markdown_table
from bench.parts.method.run import UNTRAINED
from bench.parts.method.tables import FULL, PLAIN, Table, tables
from bench.parts.results import Row

# Measure, its name for people, whether it is a share.
MEASURES = (
    ("r1", "R@1", True),
    ("r5", "R@5", True),
    ("probe_top1", "linear probe", True),
    ("rank_accuracy", "rank accuracy", True),
    ("moved_rank_accuracy", "rank, segments moved", True),
    ("other_clip_r1", "R@1, other clip", True),
    ("variance_ratio", "intra / inter, clips", False),
    ("segment_variance_ratio", "intra / inter, segments", False),
)
_JUDGED = ("r1", "probe_top1")
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class SeedMean:
    """Mean and standard deviation over the seeds; the deviation of one seed is nan."""

    mean: float
    deviation: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "SeedMean | None":
        """Return the mean of values; None if there are none."""
        if not values:
            return None
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
        return cls(float(np.mean(values)), deviation, len(values))

    def text(self, *, share: bool) -> str:
        """Return `52.3 ± 1.4`, in per cent for a share, else as a plain number."""
        factor, digits = (100, 1) if share else (1, 2)
        mean = f"{factor * self.mean:.{digits}f}"
        if math.isnan(self.deviation):
            return mean
        return f"{mean} ± {factor * self.deviation:.{digits}f}"


def one_line(row: Row) -> str:
    """Return a row as text."""
    cells = []
    for measure, title, share in MEASURES:
        if row[measure] is not None:
            cells.append(f"{title} {SeedMean(row[measure], math.nan, 1).text(share=share)}")
    seconds = f"{row['train_seconds']:.0f} + {row['evaluate_seconds']:.0f} s"
    return f"{row['data']}  {row['contestant']}  seed {row['seed']}  {seconds}:  {', '.join(cells)}"


def markdown(table: Table, measures: Sequence[tuple[str, str, bool]] = MEASURES) -> str:
    """Return a table with one row per contestant: mean and standard deviation."""
    first = table.rows[0]
    guesses = [
        "-"
        if first.get(f"chance_{measure}") is None
        else SeedMean(first[f"chance_{measure}"], math.nan, 1).text(share=share)
        for measure, _, share in measures
    ]
    body = [["guessing", *guesses]]
    for label in table.labels:
        cells = [label]
        for measure, _, share in measures:
            mean = SeedMean.of([*table.values(label, measure).values()])
            cells.append("-" if mean is None else mean.text(share=share))
        body.append(cells)
    return markdown_table(["", *(title for _, title, _ in measures)], body)


def conclude(rows: Sequence[Row]) -> str:
    """Return the tables, and in words whether the full objective beats plain contrast."""
    parts = []
    for table in tables(rows):
        others = [*table.labels_of(PLAIN), UNTRAINED]
        sentences = [compare(table, FULL, other, m) for other in others for m in _JUDGED]
        parts.append(f"{describe(table)}.")
        parts.append(markdown(table))
        parts.append("\n".join(sentence for sentence in sentences if sentence))
    return "\n\n".join(parts)


def describe(table: Table) -> str:
    """Return a sentence, without full stop, that says on what a table was measured."""
    first = next((row for row in table.rows if row["contestant"] == FULL), table.rows[-1])
    seeds = len(table.values(first["label"], "r1"))
    settings = f" ({table.settings})" if table.settings else ""
    return (
        f"{table.name}: {first['train_videos']} training videos, {first['test_videos']} test "
        f"videos, {first['clips_per_video']} clips each, recipe {first['recipe']}{settings}, "
        f"{table.steps} steps of {first['batch_size']} videos, {seeds} "
        f"seed{'s' if seeds > 1 else ''}; per cent, mean ± standard deviation over the seeds"
    )


def compare(table: Table, ours: str, theirs: str, measure: str) -> str:
    """Return a sentence that says which of two is ahead, by how much, and how surely.

    Differences are taken seed by seed, because runs with the same seed begin with the same weights
    and see the same clips. Their interval is Student's.

    Args:
        table: Holds both.
        ours: Label of the first.
        theirs: Label of the second.
        measure: Name of a measure that is a share.

    Returns:
        The sentence; "" if no seed has both.
    """
    mine, other = (table.values(label, measure) for label in (ours, theirs))
    seeds = sorted(mine.keys() & other.keys())
    if not seeds:
        return ""
    differences = [100 * (mine[seed] - other[seed]) for seed in seeds]
    title = next(title for name, title, _ in MEASURES if name == measure)
    mean = float(np.mean(differences))
    side = "above" if mean >= 0 else "below"
    start = f"{title}: {ours} is {abs(mean):.1f} points {side} {theirs}"
    if len(seeds) < 2:
        return f"{start}; one seed says nothing about the variation."
    error = float(np.std(differences, ddof=1)) / math.sqrt(len(seeds))
    margin = float(stats.t.ppf((1 + _CONFIDENCE) / 2, len(seeds) - 1)) * error
    wins = sum(difference > 0 for difference in differences)
    verdict = (
        f"it is {'better' if mean > 0 else 'worse'} beyond the variation of the seeds"
        if abs(mean) > margin
        else "these seeds cannot tell the two apart"
    )
    deviations = [float(np.std([v[s] for s in seeds], ddof=1)) for v in (mine, other)]
    apart = " and ".join(f"{100 * deviation:.1f}" for deviation in deviations)
    return (
        f"{start} (ahead in {wins} of {len(seeds)} seeds; 95 % interval {mean - margin:+.1f} to "
        f"{mean + margin:+.1f}; standard deviations {apart}): {verdict}."
    )


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw one row of panels per table, one panel per measure: seeds as points, means as bars."""
    found = tables(rows)
    figure = Figure(figsize=(2.4 * len(MEASURES), 4.4 * len(found) + 0.6), layout="constrained")
    axes = figure.subplots(len(found), len(MEASURES), squeeze=False)
    for line, table in zip(axes, found, strict=True):
        for ax, (measure, title, share) in zip(line, MEASURES, strict=True):
            _draw_panel(ax, table, measure)
            ax.set_title(title, fontsize=10)
            ax.set_ylim(0, None)
            if share:
                ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        line[0].set_ylabel(table.name, fontsize=11)
    first = rows[0]
    figure.suptitle(f"{first['device']}, torch {first['torch']}, {first['date']}", fontsize=9)
    figure.savefig(path, dpi=110)


def _draw_panel(ax: Axes, table: Table, measure: str) -> None:
    for position, label in enumerate(table.labels):
        values = [*table.values(label, measure).values()]
        if values:
            ax.bar(position, float(np.mean(values)), color=f"C{position}", alpha=0.35, width=0.8)
            jitter = np.linspace(-0.2, 0.2, len(values)) if len(values) > 1 else [0.0]
            ax.scatter(position + np.asarray(jitter), values, color=f"C{position}", s=14, zorder=3)
    chance = table.rows[0].get(f"chance_{measure}")
    if chance is not None:
        ax.axhline(chance, color="0.4", linestyle=":", linewidth=1)
    names = [label.replace(", ", ",\n") for label in table.labels]
    ax.set_xticks(range(len(names)), names, fontsize=7, rotation=90)
