"""The picture and the printed lines of bench.train."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from bench.parts.results import Row

PARTS = ("forward", "losses", "backward", "optimiser")


def one_line(row: Row) -> str:
    """A row for people: what, how fast, how large."""
    name = f"{row['backbone']:12} {row['contestant']:20}"
    if row["status"] != "ok":
        return f"{name} {row['status']} (off by {row['max_error']})"
    real = ""
    if "real_clips_per_second" in row:
        real = (
            f"; loader {row['real_clips_per_second']:.1f} clips/s, "
            f"{row['real_data_wait_share']:.1%} waiting"
        )
    return (
        f"{name} {row['step_ms']:10.2f} ms {row['clips_per_second']:10.1f} clips/s "
        f"{row['peak_mib']:9.1f} MiB {row['utilisation']:6.1%} of {row['roofline_tflops']:.2f} "
        f"TFLOP/s, off by {row['max_error']}{real}"
    )


def draw(rows: Sequence[Row], path: Path) -> None:
    """A bar for each contestant, of the parts of a step; a panel for each backbone."""
    measured = [row for row in rows if row["status"] == "ok"]
    backbones = list(dict.fromkeys(row["backbone"] for row in measured))
    if not backbones:
        return
    figure, axes = plt.subplots(
        len(backbones), 1, figsize=(7.5, 1.2 + 1.9 * len(backbones)), squeeze=False
    )
    for backbone, axis in zip(backbones, axes[:, 0], strict=True):
        shown = [row for row in measured if row["backbone"] == backbone][::-1]
        names, left = [row["contestant"] for row in shown], [0.0] * len(shown)
        for part in PARTS:
            widths = [row[f"{part}_ms"] for row in shown]
            axis.barh(names, widths, left=left, label=part)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        axis.set(title=backbone, xlabel="ms a step")
    axes[0, 0].legend(fontsize=7)
    first = measured[0]
    figure.suptitle(
        f"{first['device']}, {first['videos']} videos of 4 views {first['clip']}, "
        f"torch {first['torch']}, {first['date']}",
        fontsize=9,
    )
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
