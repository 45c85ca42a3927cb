"""PNG pictures: training curves, a map of the features, similarities of segments.

Drawn on matplotlib's own Figure objects: no display is needed and no global state is changed.
"""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from fastdual.loaders.files import write
from fastdual.report.feature_map import FeatureMap
from fastdual.report.projection import Projection
from fastdual.report.runs import RunCurves

# Metric in the log, title of its panel, whether it is a share; in reading order.
_PANELS = (
    ("loss", "loss, total", False),
    ("clip", "clip contrast", False),
    ("coherence", "temporal coherence", False),
    ("rank", "shuffle-rank", False),
    ("learning_rate", "learning rate", False),
    ("clip_top1", "clip contrast, top-1", True),
    ("coherence_top1", "temporal coherence, top-1", True),
    ("rank_accuracy", "rank accuracy", True),
)
_SMOOTHED_FROM = 40  # readings; fewer are drawn as they are
_MARKERS = ("o", "s", "^", "D")  # per split of a map
_NO_SPLIT_MARKER = "P"
_SHOWN_VIDEOS = 8

Array = NDArray[np.float64]

# Names of runs, splits and classes are text: matplotlib would set `$...$` in them as formulas.
_text_is_text = rc_context({"text.parse_math": False})


@_text_is_text
def training_curves(runs: Sequence[RunCurves]) -> Figure:
    """Draw every loss and accuracy against the epoch: a panel per metric, a colour per run."""
    panels = [panel for panel in _PANELS if any(panel[0] in run.values for run in runs)]
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.5 * columns, 2.7 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for ax in axes[len(panels) :]:
        ax.remove()
    for ax, (metric, title, is_share) in zip(axes, panels, strict=False):
        for number, run in enumerate(runs):
            if metric in run.values:
                _draw_curve(ax, run.epochs, run.values[metric], _colour(number))
        ax.set(title=title, xlabel="epoch", xlim=(0, None))
        if is_share:
            ax.set_ylim(0, 1)
            ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        elif metric == "learning_rate":
            ax.set_ylim(0, None)
            ax.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        else:
            ax.set_ylabel("nats")
        ax.grid(alpha=0.25)
    handles = [
        axes[0].plot([], [], color=_colour(number), label=run.name)[0]
        for number, run in enumerate(runs)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False)
    return figure


def _draw_curve(ax: Axes, epochs: Array, values: Array, colour: Any) -> None:
    if len(values) < _SMOOTHED_FROM:
        ax.plot(epochs, values, color=colour, linewidth=1.6, marker=".", markersize=4)
        return
    ax.plot(epochs, values, color=colour, linewidth=0.7, alpha=0.3)
    ax.plot(epochs, _running_mean(values, len(values) // 20), color=colour, linewidth=1.8)


def _running_mean(values: Array, half_width: int) -> Array:
    """Return the mean over the readings at most `half_width` away; nan readings are left out."""
    means = np.full(len(values), np.nan)
    for i in range(len(values)):
        window = values[max(0, i - half_width) : i + half_width + 1]
        if np.isfinite(window).any():
            means[i] = np.nanmean(window)
    return means


@_text_is_text
def draw_map(drawn: FeatureMap, *, title: str) -> Figure:
    """Draw each video as a point, in the colour of its class and with the marker of its split."""
    panels = drawn.projections
    figure = Figure(figsize=(5.2 * len(panels) + 2.2, 5.4), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False).flatten()
    for ax, panel in zip(axes, panels, strict=True):
        _draw_points(ax, drawn, panel)
    handles = _map_legend(axes[0], drawn)
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=8)
    figure.suptitle(title)
    return figure


def _draw_points(ax: Axes, drawn: FeatureMap, panel: Projection) -> None:
    for mark, marker in enumerate([*_MARKERS[: len(drawn.splits)], _NO_SPLIT_MARKER]):
        shown = np.flatnonzero(drawn.marks[panel.rows] == mark)
        ax.scatter(
            panel.points[shown, 0],
            panel.points[shown, 1],
            c=[drawn.colours[row] for row in panel.rows[shown]],
            marker=marker,
            s=26,
            alpha=0.8,
            linewidths=0.4,
            edgecolors="white",
        )
    ax.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
    if panel.has_scale:
        ax.grid(alpha=0.2)
    else:
        ax.set(xticks=[], yticks=[])


def _map_legend(ax: Axes, drawn: FeatureMap) -> list[Any]:
    entries = [("o", colour, _shorten(name)) for name, colour in drawn.legend]
    if drawn.more:
        entries.append(("", "none", f"and {drawn.more} more classes"))
    if len(drawn.splits) > 1:
        marked = zip(_MARKERS, drawn.splits, strict=False)
        entries += [(marker, "0.35", f"split {_shorten(name)}") for marker, name in marked]
    style: dict[str, Any] = {"linestyle": "none", "markersize": 6}
    return [
        ax.plot([], [], marker=marker, color=colour, label=label, **style)[0]
        for marker, colour, label in entries
    ]


@_text_is_text
def segment_similarity(similarity: Array, *, title: str) -> Figure:
    """Draw how alike segments are: mean over videos, then single videos.

    Args:
        similarity: [N, S, S] cosine of segment i of a clip and segment j of its shuffled twin, put
            back into order, so that matches lie on the diagonal; S > 1.
        title: Of the whole picture.
    """
    singles = similarity[:_SHOWN_VIDEOS]
    columns = 4
    figure = Figure(figsize=(11.5, 4.6), layout="constrained")
    left, right = np.asarray(figure.subfigures(1, 2, width_ratios=(1, 1.55)), dtype=object)
    wins = (similarity.argmax(axis=2) == np.arange(similarity.shape[1])).mean()
    ax = left.subplots()
    # One scale for all, as wide as what is shown: 0.93 and 0.97 differ too.
    shown = np.concatenate([similarity.mean(axis=0)[None], singles])
    limits = float(shown.min()), max(float(shown.max()), float(shown.min()) + 1e-3)
    image = _draw_matrix(ax, similarity.mean(axis=0), limits)
    ax.set_title(f"mean of {len(similarity)} videos; the match wins in {wins:.0%} of rows")
    ax.set_xlabel("segment of the shuffled clip, put back into order")
    ax.set_ylabel("segment of the clip")
    grid = right.subplots(-(-_SHOWN_VIDEOS // columns), columns, squeeze=False).flatten()
    for number, ax in enumerate(grid):
        if number >= len(singles):
            ax.remove()
            continue
        _draw_matrix(ax, singles[number], limits)
        ax.set_title(f"video {number + 1}", fontsize=9)
    right.colorbar(image, ax=right.axes, label="cosine similarity", shrink=0.8)
    figure.suptitle(title)
    return figure


def _draw_matrix(ax: Axes, matrix: Array, limits: tuple[float, float]) -> Any:
    size = len(matrix)
    low, high = limits
    image = ax.imshow(matrix, vmin=low, vmax=high, cmap="viridis")
    ax.set_xticks(range(size), [str(i + 1) for i in range(size)])
    ax.set_yticks(range(size), [str(i + 1) for i in range(size)])
    if size <= 4:
        for (row, column), value in np.ndenumerate(matrix):
            ink = "black" if value > (low + high) / 2 else "white"
            ax.text(column, row, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=8)
    return image


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as a PNG file; return its path.

    Raises:
        FailureError: The file cannot be written.
    """
    write(path, _png(figure, dpi=140), "the picture")
    return path


def data_uri(figure: Figure) -> str:
    """Return a figure as a PNG that can stand inside a page."""
    return "data:image/png;base64," + base64.b64encode(_png(figure, dpi=110)).decode()


def _png(figure: Figure, *, dpi: int) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi)
    return stream.getvalue()


def _colour(number: int) -> Any:
    return colormaps["tab10"](number % 10)


def _shorten(name: str) -> str:
    return name if len(name) <= 28 else f"{name[:27]}…"
