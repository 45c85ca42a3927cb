"""The report of a run as one HTML page that needs no network and no other file."""

import contextlib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fastdual._version import __version__
from fastdual.errors import InputError, contents_of
from fastdual.evaluate.results import find_results, is_baseline
from fastdual.loaders.batch.decoded_by import DecodedBy
from fastdual.loaders.files import read_lines, sha256_of, write
from fastdual.report import sections
from fastdual.report.baselines import verdict
from fastdual.report.collect import Evidence, classes_of
from fastdual.report.plots import data_uri, training_curves
from fastdual.report.runs import RunCurves, read_curves
from fastdual.run.checkpoint import find_checkpoint, list_checkpoints, load_checkpoint
from fastdual.run.summary import LOG_NAME, read_events

# Sections of the page: the name of the template, which is the id too, and the title.
_CURVES = ("curves", "Curves")
_LEARNED = (
    ("retrieval", "Retrieval"),
    ("gallery", "Nearest videos"),
    ("map", "Map"),
    ("segments", "Segments"),
    ("variance", "Variance"),
    ("confusion", "Confusions"),
)
_FINETUNING = ("finetune", "linear")
_LEFT_BEHIND = (("results", "Results"), ("quarantine", "Quarantine"))


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What the folder of a run says by itself.

    Attributes:
        name: Of the run.
        facts: Label and value of each line below the title.
        curves: None for a run without a reading.
        quarantined: Path and reason of each video that failed in training.
        results: As `evaluate.results.find_results`.
    """

    name: str
    facts: Mapping[str, str]
    curves: RunCurves | None
    quarantined: Sequence[Mapping[str, Any]]
    results: Sequence[tuple[str, Mapping[str, Any]]]

    def with_data(self, data: Path, evidence: Evidence) -> "RunFacts":
        """Add which videos and weights the page was made from."""
        features = evidence.trained.features
        more = {
            "measured on": f"{len(features)} videos of {data.name} "
            f"(fingerprint {features.data_fingerprint[:12]})",
            "weights": features.weights_sha256[:32],
        }
        return replace(self, facts={**self.facts, **more})


def read_facts(run: Path) -> RunFacts:
    """Read a run folder.

    Raises:
        InputError: No run folder, or no checkpoint in it.
    """
    file = find_checkpoint(run)
    with contents_of(file, "report on another checkpoint"):
        facts = _facts_of(load_checkpoint(file), file.name)
    has_log = run.is_dir() and (run / LOG_NAME).exists()
    curves = None
    if has_log:
        with contextlib.suppress(InputError):  # a run that was stopped before its first reading
            curves = read_curves(run, run.resolve().name)
        events = [e for e in read_events(run / LOG_NAME) if e["event"] == "decoded"]
        facts |= {"decoded by": str(DecodedBy.of(events))} if events else {}
    return RunFacts(
        name=run.resolve().name,
        facts=facts,
        curves=curves,
        quarantined=quarantined_in(run),
        results=results_of(run),
    )


def _facts_of(state: Mapping[str, Any], name: str) -> dict[str, str]:
    """Return what a checkpoint says of its run, label by label."""
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
    facts["checkpoint"] = f"{name}, step {state['step']}"
    if versions:
        facts["trained with"] = ", ".join(f"{k} {v}" for k, v in versions.items())
    return facts


def render(run: RunFacts, evidence: Evidence | None) -> str:
    """Return the page; without evidence, that of the run's folder alone."""
    shown: dict[str, Any] = {
        "curves": data_uri(training_curves([run.curves])) if run.curves is not None else None,
        "results": sections.results(run.results),
        "strips": {},
        "verdict": None,
        "videos": [],
    }
    parts = [_CURVES, *_LEFT_BEHIND]
    if evidence is not None:
        parts = [_CURVES, *_LEARNED, *_LEFT_BEHIND]
        shown |= _learned(evidence)
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    page = _templates().get_template("page.html")
    return page.render(parts=parts, run=run, version=__version__, written=written, **shown)


def verdict_of(evidence: Evidence) -> tuple[str, str]:
    """Return whether the network is better than itself untrained and trivial baselines, and why."""
    if evidence.is_one_set:
        return "open", "No verdict: the videos have no classes, so nothing can be counted."
    others = {"random weights": evidence.untrained.retrieval, **evidence.baselines}
    kind, text = verdict(evidence.trained.retrieval, others)
    seen = f" The network was pretrained on {evidence.num_seen} of these videos, without labels."
    return kind, text + (seen if evidence.num_seen else "")


def _learned(evidence: Evidence) -> dict[str, Any]:
    """Return what the templates know of the evidence."""
    train, test = evidence.splits
    report = evidence.confusion
    return {
        "evidence": evidence,
        "train": train,
        "test": test,
        "strips": evidence.strips,
        "verdict": verdict_of(evidence),
        "videos": _videos(evidence),
        "lookups": sections.lookups(evidence),
        "map": sections.embedding_map(evidence),
        "segments": sections.segments(evidence),
        "variances": sections.variances(evidence),
        "matrix": None if isinstance(report, str) else sections.confusion_matrix(report),
    }


@functools.cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("fastdual.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["percent"] = lambda share: f"{100 * share:.1f}"
    environment.filters["repr"] = repr
    return environment


def write_page(path: Path, page: str) -> None:
    """Write the page.

    Raises:
        FailureError: The file cannot be written.
    """
    # A file name that is not UTF-8 would make the page that names it no UTF-8 either.
    write(path, page.encode("utf-8", "replace"), "the page")


def results_of(run: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the results that a run folder holds, and those of fine-tuning from it."""
    has_any = any((run / "results").glob("*.json"))
    return [*(find_results([run]) if has_any else []), *finetuned_beside(run)]


def finetuned_beside(run: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the results of fine-tuning runs beside a run: from its weights, and from scratch.

    Those from scratch belong to it where they are of the same kind and on the same videos.
    """
    found = []
    for file in sorted(run.resolve().parent.glob("*/results/*.json")):
        with contextlib.suppress(InputError):  # of another program
            found += [one for one in find_results([file]) if one[1]["task"] in _FINETUNING]
    if not found:
        return []
    own = {sha256_of(path) for path in list_checkpoints(run / "checkpoints")}
    tuned = [one for one in found if one[1]["checkpoint"] in own]
    kinds = {(result["task"], result["data_fingerprint"]) for _, result in tuned}
    scratch = [
        (name, result)
        for name, result in found
        if is_baseline(result) and (result["task"], result["data_fingerprint"]) in kinds
    ]
    return tuned + scratch


def quarantined_in(run: Path) -> list[dict[str, Any]]:
    """Return the videos that failed in a run; a line that a kill has cut is left out."""
    return list(read_lines(run / "quarantine.jsonl"))


def _videos(evidence: Evidence) -> list[tuple[str, str, str, bool]]:
    """Return path, class and split of each video, and whether it has a film strip."""
    features = evidence.trained.features
    names = classes_of(features, range(len(features)))
    split_of = [""] * len(features)
    for split in reversed(evidence.splits):
        for row in features.split(split).tolist():
            split_of[row] = split
    return [
        (path, name, split, row in evidence.strips)
        for row, (path, name, split) in enumerate(zip(features.paths, names, split_of, strict=True))
    ]
