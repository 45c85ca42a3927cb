"""What the rows of bench.method say: mean and spread, the picture, the conclusion in words."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from scipy import stats

from bench.common import Row
from bench.method_run import CONTESTANTS, UNTRAINED

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
PLAIN, FULL = "clip", "clip+rank+coherence"
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """Mean over the seeds and the standard deviation between them, nan for a single one."""

    mean: float
    deviation: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        """None for no value."""
        if not values:
            return None
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
        return cls(float(np.mean(values)), deviation, len(values))

    def text(self, *, share: bool) -> str:
        """`52.3 ± 1.4` in per cent, or a plain number."""
        factor, digits = (100, 1) if share else (1, 2)
        mean = f"{factor * self.mean:.{digits}f}"
        if math.isnan(self.deviation):
            return mean
        return f"{mean} ± {factor * self.deviation:.{digits}f}"


def values_of(rows: Sequence[Row], contestant: str, measure: str) -> dict[int, float]:
    """A measure of a contestant by seed."""
    found = {row["seed"]: row[measure] for row in rows if row["contestant"] == contestant}
    return {seed: value for seed, value in found.items() if value is not None}


def by_data(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by what they may be compared with: a data set, where it was measured in several ways
    with the budget and clips in its name."""
    keys = dict.fromkeys((r["data"], r["budget"], r["clips_per_video"]) for r in rows)
    several = {name for name in (k[0] for k in keys) if sum(k[0] == name for k in keys) > 1}
    named = {key: f"{key[0]} ({key[1]}, {key[2]})" if key[0] in several else key[0] for key in keys}
    return {
        name: [r for r in rows if (r["data"], r["budget"], r["clips_per_video"]) == key]
        for key, name in named.items()
    }


def one_line(row: Row) -> str:
    """A row for people."""
    cells = []
    for measure, title, share in MEASURES:
        if row[measure] is not None:
            cells.append(f"{title} {Spread(row[measure], math.nan, 1).text(share=share)}")
    seconds = f"{row['train_seconds']:.0f} + {row['evaluate_seconds']:.0f} s"
    return f"{row['data']}  {row['contestant']}  seed {row['seed']}  {seconds}:  {', '.join(cells)}"


def markdown(rows: Sequence[Row], measures: Sequence[tuple[str, str, bool]] = MEASURES) -> str:
    """A table of one data set: a row for each contestant, mean and standard deviation."""
    lines = ["| | " + " | ".join(title for _, title, _ in measures) + " |"]
    lines.append("|---" * (len(measures) + 1) + "|")
    guesses = [
        "-"
        if rows[0].get(f"chance_{measure}") is None
        else Spread(rows[0][f"chance_{measure}"], math.nan, 1).text(share=share)
        for measure, _, share in measures
    ]
    lines.append(f"| guessing | {' | '.join(guesses)} |")
    for contestant in CONTESTANTS:
        spreads = [
            (Spread.of([*values_of(rows, contestant, measure).values()]), share)
            for measure, _, share in measures
        ]
        if all(spread is None for spread, _ in spreads):
            continue
        cells = [
            "-" if s is None else s.text(share=share).replace("+-", "±") for s, share in spreads
        ]
        lines.append(f"| {contestant} | {' | '.join(cells)} |")
    return "\n".join(lines)


def conclude(rows: Sequence[Row]) -> str:
    """The tables and, in plain words, whether the full objective beats plain contrast."""
    parts = []
    for name, own in by_data(rows).items():
        parts.append(describe(name, own))
        parts.append(markdown(own))
        sentences = [compare(own, FULL, PLAIN, measure) for measure in _JUDGED]
        sentences += [compare(own, FULL, UNTRAINED, measure) for measure in _JUDGED]
        parts.append("\n".join(sentence for sentence in sentences if sentence))
    return "\n\n".join(parts)


def describe(name: str, rows: Sequence[Row]) -> str:
    """One sentence on what the rows of one data set were measured on."""
    first = max(rows, key=lambda row: int(row["steps"]))
    seeds = {row["seed"] for row in rows if row["contestant"] == FULL}
    settings = f" ({first['settings']})" if first["settings"] else ""
    return (
        f"{name}: {first['train_videos']} training videos, {first['test_videos']} test videos, "
        f"recipe {first['recipe']}{settings}, {first['steps']} steps of {first['batch_size']} "
        f"videos, {len(seeds)} seeds; per cent, mean ± standard deviation over the seeds"
    )


def compare(rows: Sequence[Row], ours: str, theirs: str, measure: str) -> str:
    """One sentence: which of two is ahead, by how much, and whether the seeds can tell.

    The difference is taken seed by seed, for equal seeds begin from equal weights and see equal
    clips; its interval is Student's. "" where there is nothing to compare.
    """
    mine, other = (values_of(rows, contestant, measure) for contestant in (ours, theirs))
    seeds = sorted(mine.keys() & other.keys())
    if not seeds:
        return ""
    differences = [100 * (mine[seed] - other[seed]) for seed in seeds]
    title = next(title for name, title, _ in MEASURES if name == measure)
    mean = float(np.mean(differences))
    start = (
        f"{title}: {ours} is {abs(mean):.1f} points {'above' if mean >= 0 else 'below'} {theirs}"
    )
    if len(seeds) < 2:
        return f"{start}; one seed says nothing of the spread."
    error = float(np.std(differences, ddof=1)) / math.sqrt(len(seeds))
    margin = float(stats.t.ppf((1 + _CONFIDENCE) / 2, len(seeds) - 1)) * error
    wins = sum(difference > 0 for difference in differences)
    verdict = (
        f"it is {'better' if mean > 0 else 'worse'} beyond the spread of the seeds"
        if abs(mean) > margin
        else "these seeds cannot tell the two apart"
    )
    spreads = [Spread.of([v[s] for s in seeds]) for v in (mine, other)]
    apart = " and ".join(f"{100 * s.deviation:.1f}" for s in spreads if s is not None)
    return (
        f"{start} (ahead in {wins} of {len(seeds)} seeds; 95 % interval {mean - margin:+.1f} to "
        f"{mean + margin:+.1f}; standard deviations {apart}): {verdict}."
    )


def draw(rows: Sequence[Row], path: Path) -> None:
    """One row of panels a data set, a panel a measure: every seed as a point, the mean as a bar."""
    sets = by_data(rows)
    figure = Figure(figsize=(2.4 * len(MEASURES), 4.4 * len(sets) + 0.6), layout="constrained")
    axes = figure.subplots(len(sets), len(MEASURES), squeeze=False)
    for line, (name, own) in zip(axes, sets.items(), strict=True):
        for ax, (measure, title, share) in zip(line, MEASURES, strict=True):
            _draw_panel(ax, own, measure)
            ax.set_title(title, fontsize=10)
            ax.set_ylim(0, None)
            if share:
                ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        line[0].set_ylabel(name, fontsize=11)
    first = rows[0]
    figure.suptitle(f"{first['device']}, torch {first['torch']}, {first['date']}", fontsize=9)
    figure.savefig(path, dpi=110)


def _draw_panel(ax: object, rows: Sequence[Row], measure: str) -> None:
    assert hasattr(ax, "bar")
    for place, contestant in enumerate(CONTESTANTS):
        values = [*values_of(rows, contestant, measure).values()]
        if values:
            ax.bar(place, float(np.mean(values)), color=f"C{place}", alpha=0.35, width=0.8)
            jitter = np.linspace(-0.2, 0.2, len(values)) if len(values) > 1 else [0.0]
            ax.scatter(place + np.asarray(jitter), values, color=f"C{place}", s=14, zorder=3)
    chance = rows[0].get(f"chance_{measure}")
    if chance is not None:
        ax.axhline(chance, color="0.4", linestyle=":", linewidth=1)
    places = itertools.count()
    names = {next(places): name for name in CONTESTANTS}
    ax.set_xticks([*names], [*names.values()], fontsize=7, rotation=90)
