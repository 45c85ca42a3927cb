"""The parts of the page that are text and tables, each a piece of HTML."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from fastdual.evaluate.results import is_baseline
from fastdual.report.collect import Evidence, Learned, Lookup, classes_of
from fastdual.report.markup import note, picture, share_cell
from fastdual.report.plots import training_curves
from fastdual.report.runs import RunCurves
from fastdual.report.table import Found, by_kind, task_label


def curves(of: RunCurves | None) -> str:
    """Every loss and accuracy against the epoch."""
    if of is None:
        return note("The run has logged no reading.")
    return picture(training_curves([of]), "Losses and accuracies against the epoch")


def retrieval(evidence: Evidence) -> str:
    """R@k of the run and of the same network before it was trained."""
    trained, untrained = evidence.trained, evidence.untrained
    if trained.retrieval is None or untrained.retrieval is None:
        return note(f"Not measured: {trained.reason or untrained.reason}")
    names = list(trained.retrieval["metrics"])
    head = "".join(f"<th>{name}</th>" for name in names)
    rows = []
    for title, learned, mark in (("this run", trained, ' class="ours"'), *_other(untrained)):
        assert learned.retrieval is not None
        cells = "".join(share_cell(learned.retrieval["metrics"][name]) for name in names)
        rows.append(f"<tr{mark}><td>{title}</td>{cells}</tr>")
    chance = f"<tr><td>guessing</td><td>{100 * trained.retrieval['chance']:.1f}</td>"
    chance += "<td></td>" * (len(names) - 1) + "</tr>"
    counts, clips = trained.retrieval, trained.features.settings["clips_per_video"]
    return (
        note(
            f"Share of the {counts['num_queries']} videos of the split {evidence.splits[1]!r} with "
            f"a video of their class among the k nearest of {counts['num_gallery']} in "
            f"{evidence.splits[0]!r}, by features averaged over {clips} clips a video; "
            "per cent, with the 95 % interval over the queries."
        )
        + _overlap_warning(evidence)
        + f'<table class="numbers"><tr><th></th>{head}</tr>{"".join(rows)}{chance}</table>'
    )


def _other(untrained: Learned) -> list[tuple[str, Learned, str]]:
    return [("random weights", untrained, "")]


def _overlap_warning(evidence: Evidence) -> str:
    if not evidence.overlaps:
        return ""
    count = len(evidence.overlaps)
    return f'<p class="warning">{count} overlaps of the two splits were allowed.</p>'


def gallery(evidence: Evidence) -> str:
    """Some queries with their five nearest videos, right and wrong marked."""
    if not evidence.lookups:
        return note("A split is empty.")
    shown = "".join(_lookup(evidence, lookup) for lookup in evidence.lookups)
    return (
        note(
            f"{len(evidence.lookups)} videos of {evidence.splits[1]!r}, drawn at random, and their "
            f"nearest in {evidence.splits[0]!r} with the cosine. Green: the same class; red: "
            "another. Hover a picture to play it."
        )
        + f'<div class="lookups">{shown}</div>'
    )


def _lookup(evidence: Evidence, lookup: Lookup) -> str:
    features = evidence.trained.features
    query_class, *found = classes_of(features, [lookup.query, *lookup.found])
    cards = [_card(evidence, lookup.query, query_class, "query", "query")]
    for row, name, cosine in zip(lookup.found, found, lookup.cosines, strict=True):
        kind = "" if not name or not query_class else "right" if name == query_class else "wrong"
        mark = {"right": "✓ ", "wrong": "✗ ", "": ""}[kind]
        cards.append(_card(evidence, row, name, kind, f"{mark}{cosine:.2f}"))
    return f'<div class="lookup">{"".join(cards)}</div>'


def _card(evidence: Evidence, row: int, name: str, kind: str, below: str) -> str:
    path = escape(evidence.trained.features.paths[row], quote=True)
    return (
        f'<div class="card {kind}" title="{path}"><div class="strip t{row}"></div>'
        f"<b>{escape(name) or '-'}</b><i>{below}</i></div>"
    )


def results(found: Found) -> str:
    """The results that the run folder holds."""
    if not found:
        return note("None yet: fastdual retrieve, probe, knn and finetune leave them in the run.")
    return "".join(_result_table(columns, own) for columns, own in by_kind(found))


def _result_table(columns: Mapping[str, str], found: Found) -> str:
    titles = ("task", "test split", "weights", *columns.values())
    head = "".join(f"<th>{title}</th>" for title in titles)
    rows = []
    for _, result in found:
        weights = "random" if is_baseline(result) else str(result["checkpoint"])[:8]
        for split in result["splits"]:
            mark = " (overlaps with train)" if split["overlaps"] else ""
            metrics = split["metrics"]
            cells = "".join(
                share_cell(metrics[name]) if name in metrics else "<td></td>" for name in columns
            )
            texts = (task_label(result), str(split["test"]) + mark, weights)
            start = "".join(f"<td>{escape(text)}</td>" for text in texts)
            rows.append(f"<tr>{start}{cells}</tr>")
    return f'<table class="numbers"><tr>{head}</tr>{"".join(rows)}</table>'


def quarantine(videos: Sequence[Mapping[str, Any]]) -> str:
    """The videos that failed while the run was trained."""
    if not videos:
        return note("No video failed in training.")
    rows = "".join(
        "<tr>"
        + "".join(f"<td>{escape(str(video.get(k, '')))}</td>" for k in ("path", "reason"))
        + "</tr>"
        for video in videos
    )
    return f'<table class="numbers"><tr><th>video</th><th>reason</th></tr>{rows}</table>'
