"""The picture and the printed lines of bench.losses."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from bench.parts.results import Row

PANELS = (("median_ms", "forward + backward, ms"), ("peak_mib", "peak memory, MiB"))


def one_line(row: Row) -> str:
    """Return a row as text: what, which size, how long, how much."""
    size = f"{row['loss']:18} {row['contestant']:24} N={row['rows']:<6} D={row['dim']:<4}"
    if not row["mode"]:
        return f"{size} {row['status']} {row.get('max_error', '')}"
    launches = "" if row["launches"] is None else f" {row['launches']:3} launches"
    return (
        f"{size} {row['mode']:9} {row['median_ms']:10.3f} ms {row['peak_mib']:10.2f} MiB"
        f" {row['tflops']:8.3f} TFLOP/s{launches}"
    )


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw time and memory of each loss over its size, at the first D that was measured."""
    measured = sorted((row for row in rows if row["mode"] == "both"), key=lambda row: row["rows"])
    if not measured:
        return
    dim = measured[0]["dim"]
    measured = [row for row in measured if row["dim"] == dim]
    losses = list(dict.fromkeys(row["loss"] for row in measured))
    figure = Figure(figsize=(3.4 * len(losses), 6.2), layout="constrained")
    axes = figure.subplots(len(PANELS), len(losses), squeeze=False, sharex=True)
    for column, loss in enumerate(losses):
        of_loss = [row for row in measured if row["loss"] == loss]
        for (quantity, label), axis in zip(PANELS, axes[:, column], strict=True):
            for name in dict.fromkeys(row["contestant"] for row in of_loss):
                of_name = [row for row in of_loss if row["contestant"] == name]
                points = [(row["rows"], row[quantity]) for row in of_name]
                axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
            axis.set(xscale="log", yscale="log", ylabel=label)
            axis.grid(alpha=0.3)
        axes[0, column].set_title(loss)
        axes[0, column].legend(fontsize=7)
        axes[-1, column].set_xlabel("samples" if loss == "shuffle_rank" else "rows")
    first = measured[0]
    figure.suptitle(
        f"{first['device']}, {first['dtype']}, D = {dim}, torch {first['torch']}, {first['date']}"
    )
    figure.savefig(path, dpi=120)
