"""The report of a run as one HTML page that needs nothing else: no network, no other file."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastdual._version import __version__
from fastdual.errors import InputError
from fastdual.evaluate.results import find_results
from fastdual.loaders.files import write
from fastdual.report import charts, sections
from fastdual.report.collect import Evidence, classes_of
from fastdual.report.runs import RunCurves, read_curves
from fastdual.run.checkpoint import find_checkpoint, load_checkpoint

# Nothing may be fetched, whatever a path or a class name contains.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What the folder of a run tells by itself.

    Attributes:
        name: of the run.
        facts: label and value of each line below the title.
        curves: None for a run without a reading.
        quarantined: path and reason of each video that failed in training.
        results: as `evaluate.results.find_results`.
    """

    name: str
    facts: Mapping[str, str]
    curves: RunCurves | None
    quarantined: Sequence[Mapping[str, Any]]
    results: Sequence[tuple[str, Mapping[str, Any]]]

    def with_data(self, data: Path, evidence: Evidence) -> "RunFacts":
        """The same, and which videos and weights the page was made from."""
        features = evidence.trained.features
        more = {
            "measured on": f"{len(features)} videos of {data.name} ({features.data_fingerprint})",
            "weights": features.weights_sha256,
        }
        return replace(self, facts={**self.facts, **more})


def read_facts(run: Path) -> RunFacts:
    """Read a run folder.

    Raises:
        InputError: no run folder, or no checkpoint in it.
    """
    file = find_checkpoint(run)
    state = load_checkpoint(file)
    config, versions = state["config"], state.get("versions", {})
    chosen = {
        "objective": "loss.objective",
        "backbone": "model.backbone",
        "epochs": "schedule.epochs",
        "batch": "data.batch_size",
    }
    facts = {label: str(config[key]) for label, key in chosen.items() if key in config}
    if {"clip.frames_per_clip", "clip.crop_size", "clip.frame_stride"} <= config.keys():
        frames, size = config["clip.frames_per_clip"], config["clip.crop_size"]
        facts["clips"] = f"{frames} x {size} x {size}, stride {config['clip.frame_stride']}"
    facts["checkpoint"] = f"{file.name}, step {state['step']}"
    if versions:
        facts["trained with"] = ", ".join(f"{k} {v}" for k, v in versions.items())
    has_log = run.is_dir() and (run / "log.jsonl").exists()
    curves = None
    if has_log:
        with contextlib.suppress(InputError):  # a run that was stopped before its first reading
            curves = read_curves(run, run.resolve().name)
    return RunFacts(
        name=run.resolve().name,
        facts=facts,
        curves=curves,
        quarantined=quarantined_in(run),
        results=results_of(run),
    )


def render(run: RunFacts, evidence: Evidence | None) -> str:
    """The page; without evidence, of the run's folder alone."""
    parts = [("curves", "Curves", sections.curves(run.curves))]
    if evidence is not None:
        parts += [
            ("retrieval", "Retrieval", sections.retrieval(evidence)),
            ("gallery", "Nearest videos", sections.gallery(evidence)),
            ("map", "Map", charts.embedding_map(evidence)),
            ("segments", "Segments", charts.segments(evidence)),
            ("variance", "Variance", charts.variances(evidence)),
            ("confusion", "Confusions", charts.confusion(evidence)),
        ]
    parts.append(("results", "Results", sections.results(run.results)))
    parts.append(("quarantine", "Quarantine", sections.quarantine(run.quarantined)))
    body = "\n".join(
        f'<section id="{name}">\n<h2>{title}</h2>\n{content}\n</section>'
        for name, title, content in parts
    )
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title, _ in parts)
    facts = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in run.facts.items())
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width">
<link rel="icon" href="data:,">
<title>{escape(run.name)}: fastdual report</title>
<style>
{_resource("page.css")}{_strip_rules(evidence)}</style>
</head>
<body>
<pre id="errors"></pre>
<script>
{_resource("page.errors.js")}</script>
<header><h1>{escape(run.name)}</h1><dl class="facts">{facts}</dl></header>
<nav>{links}</nav>
<main>
{body}
</main>
<footer class="note">fastdual {__version__}, {written}</footer>
<div id="tip"></div>
<script type="application/json" id="videos">{_videos(evidence)}</script>
<script>
{_resource("page.js")}</script>
</body>
</html>
"""


def write_page(path: Path, page: str) -> None:
    """Write the page.

    Raises:
        FailureError: The file cannot be written.
    """
    # A file name that is not UTF-8 would make the page that names it no UTF-8 either.
    write(path, page.encode("utf-8", "replace"), "the page")


def results_of(run: Path) -> list[tuple[str, dict[str, Any]]]:
    """The results that a run folder holds, none included."""
    has_any = any((run / "results").glob("*.json"))
    return find_results([run]) if has_any else []


def quarantined_in(run: Path) -> list[dict[str, Any]]:
    """The videos that failed in a run; a line that was cut by a kill is left out."""
    path = run / "quarantine.jsonl"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    found = []
    for line in lines:
        try:
            found.append(dict(json.loads(line)))
        except (ValueError, TypeError):
            continue
    return found


def _resource(name: str) -> str:
    return (files("fastdual.report") / name).read_text("utf-8")


def _strip_rules(evidence: Evidence | None) -> str:
    """A rule for each film strip, so that one that is shown twice is written once."""
    strips = evidence.strips if evidence is not None else {}
    return "".join(f".t{row}{{background-image:url({uri})}}\n" for row, uri in strips.items())


def _videos(evidence: Evidence | None) -> str:
    if evidence is None:
        return "[]"
    features = evidence.trained.features
    names = classes_of(features, list(range(len(features))))
    split_of = [""] * len(features)
    for split in evidence.splits:
        for row in features.split(split).tolist():
            split_of[row] = split_of[row] or split
    table = [
        [features.paths[row], names[row], split_of[row], row in evidence.strips]
        for row in range(len(features))
    ]
    # "</script>" in a path would end the element.
    return json.dumps(table).replace("<", "\\u003c")
