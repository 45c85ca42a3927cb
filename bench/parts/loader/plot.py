"""The picture of bench.loader: a bar for each contestant, and the limit as a line."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from bench.parts.common import Row

_COLOURS = {"ours": "#2a7f62", "rival": "#8d99ae", "limit": "#e0c36a"}


def draw(rows: Sequence[Row], path: Path) -> None:
    """Rate (whiskers: slowest to fastest turn) and CPU time of everyone that was timed."""
    timed = [row for row in rows if row.get("turns")]
    if not timed:
        return
    timed.sort(key=lambda row: row["videos_per_second"])
    figure, (rate, cost) = plt.subplots(
        1, 2, figsize=(11, 0.42 * len(timed) + 1.8), sharey=True, width_ratios=(3, 2)
    )
    names = [row["provider"] for row in timed]
    colours = [_COLOURS[row["kind"]] for row in timed]
    values = [row["videos_per_second"] for row in timed]
    whiskers = [
        [max(0.0, row["videos_per_second"] - row["slowest"]) for row in timed],
        [max(0.0, row["fastest"] - row["videos_per_second"]) for row in timed],
    ]
    bars = rate.barh(names, values, xerr=whiskers, color=colours, ecolor="#444444")
    rate.bar_label(bars, [f"{value:.1f}" for value in values], padding=4, label_type="center")
    by_name = {row["provider"]: row["videos_per_second"] for row in timed}
    if {"bare decode", "bare augmentation"} <= by_name.keys():
        limit = 1 / (1 / by_name["bare decode"] + 1 / by_name["bare augmentation"])
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
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
