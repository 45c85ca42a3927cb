"""The picture of bench.loader: a bar per contestant, and the limit as a line."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from bench.parts.loader.verdict import limit_of
from bench.parts.results import Row

_COLOURS = {"ours": "#2a7f62", "theirs": "#8d99ae", "limit": "#e0c36a"}


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw rate (whiskers: slowest to fastest turn) and CPU time of every timed contestant."""
    timed = sorted(
        (row for row in rows if row.get("turns")), key=lambda row: float(row["videos_per_second"])
    )
    if not timed:
        return
    figure = Figure(figsize=(11, 0.42 * len(timed) + 1.8), layout="constrained")
    rate, cost = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    names = [row["contestant"] for row in timed]
    colours = [_COLOURS[row["kind"]] for row in timed]
    values = [row["videos_per_second"] for row in timed]
    whiskers = [
        [max(0.0, row["videos_per_second"] - row["slowest"]) for row in timed],
        [max(0.0, row["fastest"] - row["videos_per_second"]) for row in timed],
    ]
    bars = rate.barh(names, values, xerr=whiskers, color=colours, ecolor="#444444")
    rate.bar_label(bars, [f"{value:.1f}" for value in values], padding=4, label_type="center")
    limit = limit_of(timed)
    if limit is not None:
        rate.axvline(limit, color="#b04a3a", linestyle="--")
        rate.annotate(
            f"limit {limit:.1f}", (limit, -0.45), color="#b04a3a", fontsize=8,
            xytext=(3, 0), textcoords="offset points",
        )  # fmt: skip
    rate.set(xlabel="videos/s, 4 views of 16 frames each (median; whiskers: all turns)")
    bars = cost.barh(names, [row["cpu_ms_per_video"] for row in timed], color=colours)
    cost.bar_label(bars, fmt="%.0f", padding=3)
    cost.margins(x=0.12)
    cost.set(xlabel="CPU ms per video, all processes")
    first = timed[0]
    figure.suptitle(
        f"{first['data']}: {first['videos']} videos, {first['workers']} workers, {first['device']}"
    )
    figure.savefig(path, dpi=110)
