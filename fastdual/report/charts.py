"""The parts of the page that draw: map, segments, variances, confusions.

Shapes: N videos, S segments, C classes.
"""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex

from fastdual.evaluate.features import FeatureSet
from fastdual.evaluate.variance import Variance
from fastdual.report.collect import Evidence
from fastdual.report.markup import note, picture
from fastdual.report.plots import segment_similarity
from fastdual.report.projection import Projection

_MAP_SIZE = (510, 420)
_MAP_MARGIN = 18
_LEGEND_CLASSES = 24
_MAX_NAMED_CLASSES = 60
_NO_CLASS = "#98a2b3"


def embedding_map(evidence: Evidence) -> str:
    """Principal components and t-SNE, each video a dot with its film strip."""
    features = evidence.trained.features
    maps = "".join(_map(evidence, projection) for projection in evidence.projections)
    labels = np.unique(features.labels[features.labels >= 0])
    items = [
        f'<span style="--c:{_class_colour(features, label)}">'
        f"{escape(features.class_names[label])}</span>"
        for label in labels[:_LEGEND_CLASSES]
    ]
    if len(labels) > _LEGEND_CLASSES:
        items.append(f"and {len(labels) - _LEGEND_CLASSES} more")
    return (
        note(
            f"Features of {len(features)} videos, centred and normalised as for retrieval. Discs: "
            f"{evidence.splits[0]!r}; squares: {evidence.splits[1]!r}. Hover a dot to see its "
            "video; in t-SNE only neighbourhoods mean anything."
        )
        + f'<div class="maps">{maps}</div><div class="legend">{"".join(items)}</div>'
    )


def _map(evidence: Evidence, projection: Projection) -> str:
    features, (width, height) = evidence.trained.features, _MAP_SIZE
    points = projection.points
    low, size = points.min(axis=0), np.maximum(np.ptp(points, axis=0), 1e-12)
    room = np.array([width, height]) - 2 * _MAP_MARGIN
    places = _MAP_MARGIN + (points - low) / size * room
    test = set(features.split(evidence.splits[1]).tolist())
    dots = []
    for row, (x, y) in zip(projection.rows.tolist(), places.tolist(), strict=True):
        colour = _class_colour(features, int(features.labels[row]))
        common = f'class="dot" data-row="{row}" fill="{colour}"'
        up = height - y
        if row in test:
            square = f'x="{x - 4.2:.1f}" y="{up - 4.2:.1f}" width="8.4" height="8.4"'
            dots.append(f"<rect {common} {square}/>")
        else:
            dots.append(f'<circle {common} cx="{x:.1f}" cy="{up:.1f}" r="4.6"/>')
    shares = f": {projection.x_label}, {projection.y_label}" if projection.has_scale else ""
    return (
        f"<figure><figcaption>{escape(projection.title + shares)}</figcaption>"
        f'<svg class="map" viewBox="0 0 {width} {height}">{"".join(dots)}</svg></figure>'
    )


def segments(evidence: Evidence) -> str:
    """Does the matching segment win?"""
    held_out, pretext = evidence.trained.held_out, evidence.trained.pretext
    if held_out is None or pretext is None or pretext.rank_accuracy is None:
        return note(
            "Nothing to show: the network has no heads, its objective does not train that of the "
            "segments, or a clip has one segment."
        )
    text = (
        "How alike the segments of a clip are to those of its shuffled twin, which is augmented "
        "anew. The network orders the segments where the diagonal is highest. "
    )
    before = evidence.untrained.pretext
    numbers = f"Segments whose match beats all others: {100 * pretext.rank_accuracy:.1f} %"
    if pretext.shuffled_rank_accuracy is not None:
        numbers += f", {100 * pretext.shuffled_rank_accuracy:.1f} % where segments changed places"
    if before is not None and before.rank_accuracy is not None:
        numbers += f" (random weights: {100 * before.rank_accuracy:.1f} %"
        if before.shuffled_rank_accuracy is not None:
            numbers += f" and {100 * before.shuffled_rank_accuracy:.1f} %"
        numbers += ")"
    numbers += f"; guessing gives {100 * pretext.rank_chance:.1f} %."
    similarity = held_out.segment_similarity()[held_out.moved].double().numpy()
    drawn = ""
    if len(similarity):
        title = f"clips of {evidence.splits[1]} whose segments changed places"
        figure = segment_similarity(similarity.astype(np.float64), title=title)
        drawn = picture(figure, "Similarities of segments")
    return note(text + numbers) + drawn


def variances(evidence: Evidence) -> str:
    """How much of the variance lies between videos and how much within one."""
    parts = []
    for title, name in (
        ("features of clips from all over a video", "clip_variance"),
        ("segment embeddings of one clip", "segment_variance"),
    ):
        rows = [
            _variance_row(label, getattr(learned, name))
            for label, learned in (
                ("this run", evidence.trained),
                ("random weights", evidence.untrained),
            )
            if getattr(learned, name) is not None
        ]
        if rows:
            parts.append(f"<h3>{title}</h3>{''.join(rows)}")
    if not parts:
        return note("Too few clips or videos.")
    return (
        note(
            "Plain contrast makes videos differ (inter) and may ignore what changes within one "
            "(intra); the dual representation keeps both. Variance of the normalised embeddings of "
            f"{evidence.splits[1]!r}, as shares of their sum."
        )
        + '<div class="legend"><span class="square" style="--c:#2f6fde">inter, between videos'
        '</span><span class="square" style="--c:#f0a63c">intra, within a video</span></div>'
        + f'<div class="bars">{"".join(parts)}</div>'
    )


def _variance_row(label: str, of: Variance) -> str:
    total = max(of.inter + of.intra, 1e-30)
    ratio = "-" if of.ratio is None else f"{of.ratio:.2f}"
    return (
        f'<span>{label}</span><div class="bar">'
        f'<div class="inter" style="width:{100 * of.inter / total:.1f}%"></div>'
        f'<div class="intra" style="width:{100 * of.intra / total:.1f}%"></div></div>'
        f'<span class="soft">inter {of.inter:.3f}, intra {of.intra:.3f}, ratio {ratio}</span>'
    )


def confusion(evidence: Evidence) -> str:
    """What a linear probe takes for what."""
    report = evidence.confusion
    if isinstance(report, str):
        return note(f"Not measured: {report}")
    names, table = report["class_names"], np.array(report["confusion"])
    top1 = report["metrics"]["top1"]
    text = (
        f"A linear probe on the features: {100 * top1['value']:.1f} % of the test videos right "
        f"({100 * top1['low']:.1f} to {100 * top1['high']:.1f}); always the commonest class: "
        f"{100 * report['commonest_class']:.1f} %. Rows: the true class; columns: the answer; "
        "shade: share of the row."
    )
    wrong = [
        (int(table[i, j]), f"{names[i]} for {names[j]}")
        for i, j in zip(*np.nonzero(table), strict=True)
        if i != j
    ]
    worst = ", ".join(f"{pair} ({count})" for count, pair in sorted(wrong)[::-1][:5])
    most = note(f"Most often taken: {worst}.") if wrong else ""
    return note(text) + _matrix(names, table) + most


def _matrix(names: Sequence[str], table: Any) -> str:
    count = len(names)
    named = count <= _MAX_NAMED_CLASSES
    cell = max(4, min(30, 560 // count))
    left = 8 + (7 * min(24, max(map(len, names))) if named else 0)
    top = left if named else 8
    totals = np.maximum(table.sum(axis=1), 1)
    parts = []
    for i in range(count) if named else ():
        name, middle = escape(names[i][:24]), (i + 0.5) * cell
        parts.append(f'<text x="{left - 6}" y="{top + middle + 4}" text-anchor="end">{name}</text>')
        turn = f"translate({left + middle + 4} {top - 6}) rotate(-60)"
        parts.append(f'<text class="axis" transform="{turn}">{name}</text>')
    for i, j in zip(*np.nonzero(table), strict=True):
        share = table[i, j] / totals[i]
        colour = "47 111 222" if i == j else "200 55 45"
        place = f'x="{left + j * cell}" y="{top + i * cell}" width="{cell}" height="{cell}"'
        title = escape(f"{names[i]} taken for {names[j]}: {table[i, j]} of {totals[i]}")
        fill = f"rgb({colour} / {0.12 + 0.88 * share:.2f})"
        parts.append(f'<rect {place} fill="{fill}"><title>{title}</title></rect>')
        if cell >= 20:
            ink = "#fff" if share > 0.5 else "#1d2430"
            x, y = left + (j + 0.5) * cell, top + (i + 0.5) * cell + 4
            text = f'<text x="{x}" y="{y}" text-anchor="middle" style="fill:{ink}'
            parts.append(f'{text};pointer-events:none">{table[i, j]}</text>')
    side = count * cell
    frame = (
        f'<rect x="{left}" y="{top}" width="{side}" height="{side}" fill="none" stroke="#e4e7ec"/>'
    )
    size = f'width="{left + side + 60}" height="{top + side + 4}"'
    return f'<svg class="confusion" {size}>{"".join(parts)}{frame}</svg>'


def _class_colour(features: FeatureSet, label: int) -> str:
    if label < 0:
        return _NO_CLASS
    palette = colormaps["tab10" if len(features.class_names) <= 10 else "tab20"]
    return to_hex(palette(int(label) % palette.N))
