"""What the sections of the page show, as plain values; the templates turn them into HTML."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastdual.evaluate.nearest import Lookup
from fastdual.evaluate.variance import Variance
from fastdual.report.collect import Evidence, classes_of
from fastdual.report.plots import data_uri, segment_similarity
from fastdual.report.projection import Projection
from fastdual.report.table import Found, by_kind, split_label, task_label, weights_label

_MAP_SIZE = np.array([510, 420])
_MAP_MARGIN = 18
_MAX_NAMED_CLASSES = 60


def lookups(evidence: Evidence) -> list[list[dict[str, Any]]]:
    """Return the cards of each query: its own, then one per video that was found."""
    return [_cards(evidence, lookup) for lookup in evidence.lookups]


def _cards(evidence: Evidence, lookup: Lookup) -> list[dict[str, Any]]:
    features = evidence.trained.features
    query_class, *found = classes_of(features, [lookup.query, *lookup.found])
    shown = [(lookup.query, query_class, "query", "query")]
    for row, name, cosine in zip(lookup.found, found, lookup.cosines, strict=True):
        kind = "" if not name or not query_class else "right" if name == query_class else "wrong"
        mark = {"right": "✓ ", "wrong": "✗ ", "": ""}[kind]
        shown.append((row, name, kind, f"{mark}{cosine:.2f}"))
    return [
        {"row": row, "path": features.paths[row], "class_name": name, "kind": kind, "below": below}
        for row, name, kind, below in shown
    ]


def embedding_map(evidence: Evidence) -> dict[str, Any]:
    """Return the panels of the map with a dot per video, and the legend."""
    drawn = evidence.map
    width, height = _MAP_SIZE.tolist()
    panels = [
        {"title": _panel_title(panel), "dots": _dots(evidence, panel)}
        for panel in drawn.projections
    ]
    return {
        "width": width,
        "height": height,
        "panels": panels,
        "legend": drawn.legend,
        "more": drawn.more,
    }


def _panel_title(panel: Projection) -> str:
    return panel.title + (f": {panel.x_label}, {panel.y_label}" if panel.has_scale else "")


def _dots(evidence: Evidence, panel: Projection) -> list[dict[str, Any]]:
    drawn, low = evidence.map, panel.points.min(axis=0)
    size = np.maximum(np.ptp(panel.points, axis=0), 1e-12)
    places = _MAP_MARGIN + (panel.points - low) / size * (_MAP_SIZE - 2 * _MAP_MARGIN)
    places[:, 1] = _MAP_SIZE[1] - places[:, 1]  # the page counts from the top
    test, is_other = evidence.splits[1], not evidence.is_one_set
    return [
        {
            "row": row,
            "x": x,
            "y": y,
            "colour": drawn.colours[row],
            "is_square": is_other and test in drawn.splits[drawn.marks[row] :][:1],
        }
        for row, (x, y) in zip(panel.rows.tolist(), places.tolist(), strict=True)
    ]


def segments(evidence: Evidence) -> str | None:
    """Return the picture of similar segments of held-out clips; None where there is nothing."""
    held_out = evidence.trained.held_out
    if held_out is None or not held_out.moved.any():
        return None
    title = f"clips of {evidence.splits[1]} whose segments changed places"
    figure = segment_similarity(held_out.moved_similarity(), title=title)
    return data_uri(figure)


def variances(evidence: Evidence) -> dict[str, dict[str, Variance]]:
    """Return, by what was measured, the variances of the networks for which it could be."""
    networks = {"this run": evidence.trained, "random weights": evidence.untrained}
    measured = {
        "features of clips from all over a video": "clip_variance",
        "segment embeddings of one clip": "segment_variance",
    }
    found = {
        title: {
            label: value
            for label, learned in networks.items()
            if (value := getattr(learned, name)) is not None
        }
        for title, name in measured.items()
    }
    return {title: rows for title, rows in found.items() if rows}


def confusion_matrix(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return where the cells of a classification report's confusions go, in pixels."""
    names, table = report["class_names"], np.array(report["confusion"])
    count = len(names)
    shown = [name[:24] for name in names] if count <= _MAX_NAMED_CLASSES else []
    cell = max(4, min(30, 560 // count))
    left = 8 + 7 * max(map(len, shown), default=0)
    totals = np.maximum(table.sum(axis=1), 1)
    cells = [
        {
            "row": i,
            "column": j,
            "count": table[i, j],
            "share": table[i, j] / totals[i],
            "colour": "47 111 222" if i == j else "200 55 45",
            "title": f"{names[i]} taken for {names[j]}: {table[i, j]} of {totals[i]}",
        }
        for i, j in np.argwhere(table).tolist()
    ]
    wrong = [
        (int(table[i, j]), f"{names[i]} for {names[j]}")
        for i, j in np.argwhere(table).tolist()
        if i != j
    ]
    return {
        "cell": cell,
        "left": left,
        "top": left if shown else 8,
        "side": count * cell,
        "names": shown,
        "cells": cells,
        "most_confused": ", ".join(f"{pair} ({n})" for n, pair in sorted(wrong)[::-1][:5]),
    }


def results(found: Found) -> list[dict[str, Any]]:
    """Return one table per kind of number: its titles and, per pair of splits, a row."""
    tables = []
    for columns, own in by_kind(found):
        rows = [
            {
                "texts": [task_label(result), split_label(split), weights_label(result)],
                "metrics": [split["metrics"].get(name) for name in columns],
            }
            for _, result in own
            for split in result["splits"]
        ]
        tables.append({"titles": [*columns.values()], "rows": rows})
    return tables
