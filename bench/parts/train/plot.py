"""The picture and the printed lines of bench.train."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from bench.parts.results import Row
from bench.parts.train.contestants import PARTS


def one_line(row: Row) -> str:
    """Return a row as text: what, how fast, how large."""
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
    """Draw one bar per contestant of the parts of a step, and one panel per backbone."""
    measured = [row for row in rows if row["status"] == "ok"]
    backbones = list(dict.fromkeys(row["backbone"] for row in measured))
    if not backbones:
        return
    figure = Figure(figsize=(7.5, 1.2 + 1.9 * len(backbones)), layout="constrained")
    axes = figure.subplots(len(backbones), 1, squeeze=False)
    for backbone, axis in zip(backbones, axes[:, 0], strict=True):
        shown = [row for row in measured if row["backbone"] == backbone][::-1]
        names, left = [row["contestant"] for row in shown], [0.0] * len(shown)
        for part in PARTS:
            widths = [row[f"{part}_ms"] for row in shown]
            axis.barh(names, widths, left=left, label=part)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        axis.set(title=backbone, xlabel="ms per step")
    axes[0, 0].legend(fontsize=7)
    first = measured[0]
    figure.suptitle(
        f"{first['device']}, {first['videos']} videos of 4 views {first['clip']}, "
        f"torch {first['torch']}, {first['date']}",
        fontsize=9,
    )
    figure.savefig(path, dpi=120)
