"""Results of evaluations as JSON files: the numbers, and everything that they depend on.

A run keeps its results in RUN/results/, a file NAME.* in NAME-results/, one file per evaluation.
"""

import json
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from fastdual._version import __version__
from fastdual.errors import InputError, contents_of, shown
from fastdual.evaluate.average import mean_and_deviation
from fastdual.loaders.files import write

FORMAT = "fastdual result"
FORMAT_VERSION = 1
_MAX_RESULT_BYTES = 1 << 28
_LABELS = {
    "clips_per_video": "clips",
    "frame_stride": "stride",
    "k": "k",
    "temperature": "temperature",
    "seed": "seed",
}


def make_result(
    *,
    task: str,
    command: str,
    weights_sha256: str,
    data_fingerprint: str,
    settings: Mapping[str, Any],
    splits: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return one result as plain values.

    Args:
        task: "probe", "knn", "retrieve", "pretext", "finetune" or "linear".
        command: The command line that makes it again.
        weights_sha256: SHA-256 of the file with the weights, or "random weights, seed N".
        data_fingerprint: Of the index.
        settings: Backbone, clips and whatever else decides the numbers.
        splits: For each pair of splits its "train", "test", "metrics" and the rest; the means of
            their metrics are added.
    """
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "task": task,
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "checkpoint": weights_sha256,
        "data_fingerprint": data_fingerprint,
        "settings": dict(settings),
        "splits": list(splits),
        "mean": {name: mean for name, (mean, _) in mean_and_deviation(splits).items()},
        "versions": {
            "fastdual": __version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    }


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result file.

    Raises:
        FailureError: The file cannot be written.
    """
    write(path, json.dumps(result, indent=1, allow_nan=False) + "\n", "the result")


def result_file(path: Path, result: Mapping[str, Any]) -> Path:
    """Return where a result is kept: in the run's folder, or beside the evaluated file.

    The name holds all that may differ between results of one network, so that only the same
    evaluation overwrites it.
    """
    parts = [str(result["task"]), "+".join(_pair_name(split) for split in result["splits"])]
    if is_baseline(result):
        parts.insert(1, "random")
    # A fine-tuning run has one config and one data set.
    if "config" not in result["settings"]:
        parts += [label.replace(" ", "") for label in setting_labels(result)]
        parts.append(f"data{result['data_fingerprint'][:8]}")
    return results_folder(path) / f"{'-'.join(parts)}.json"


def results_folder(path: Path) -> Path:
    """Return where the results of a run's folder, or of a file, are kept."""
    return path / "results" if path.is_dir() else path.with_name(f"{path.stem}-results")


def _pair_name(split: Mapping[str, Any]) -> str:
    """Return the test split, and the training split unless it is the other half of the same."""
    train, test = str(split["train"]), str(split["test"])
    name = test if train == f"{test.removesuffix('test')}train" else f"{test}-after-{train}"
    return name.replace("/", "-")


def setting_labels(result: Mapping[str, Any]) -> list[str]:
    """Return the settings that a user chooses between, for people: `clips 10`, `k 20`."""
    settings = result["settings"]
    return [f"{label} {settings[key]}" for key, label in _LABELS.items() if key in settings]


def is_baseline(result: Mapping[str, Any]) -> bool:
    """Return whether the weights were random on purpose."""
    return str(result["checkpoint"]).startswith("random weights")


def read_result(path: Path) -> dict[str, Any]:
    """Read a result file.

    Raises:
        InputError: Missing, damaged or something else.
    """
    try:
        if path.stat().st_size > _MAX_RESULT_BYTES:
            raise InputError(f"{path}: larger than {_MAX_RESULT_BYTES} bytes, so no result")
        result = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path}: not JSON, so no result of an evaluation") from None
    if not isinstance(result, dict) or result.get("format") != FORMAT:
        raise InputError(f"{path}: JSON, but no result that fastdual wrote")
    if result.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{path}: result format {shown(result.get('format_version'))}, this fastdual reads "
            f"{FORMAT_VERSION}; evaluate again"
        )
    with contents_of(path, "evaluate again"):
        _check_types(result)
    return result


def _check_types(result: Mapping[str, Any]) -> None:
    """Raise an error unless a result has all that its readers need, of the right types."""
    settings, splits = result["settings"], result["splits"]
    texts = [result[name] for name in ("task", "checkpoint", "data_fingerprint")]
    texts += [split[name] for split in splits for name in ("train", "test")]
    missing = [video for split in splits for video in split["left_out"]["test"]]
    texts += [video[name] for video in missing for name in ("path", "reason")]
    numbers = [*result["mean"].values()]
    metrics = [metric for split in splits for metric in split["metrics"].values()]
    numbers += [metric[name] for metric in metrics for name in ("value", "low", "high")]
    numbers += [split["num_test"] for split in splits]
    trained = [split for split in splits if result["task"] != "pretext"]  # which trains nothing
    numbers += [split["num_train"] for split in trained]
    if not (splits and isinstance(splits, list) and isinstance(settings, dict)):
        raise TypeError("settings and splits must be a table and a list")
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a name is no text")
    if not all(type(number) in (int, float) and abs(number) < 2**63 for number in numbers):
        raise TypeError("a number is none, or too large")
    for split in splits:
        if not isinstance(split["overlaps"], list):
            raise TypeError("overlaps must be a list")


def has_results(run: Path) -> bool:
    """Return whether a run folder holds a result of an evaluation."""
    return any((run / "results").glob("*.json"))


def find_results(paths: Sequence[Path]) -> list[tuple[str, dict[str, Any]]]:
    """Return name and result, of result files and of everything in the results of run folders.

    Raises:
        InputError: A path without a result.
    """
    found = []
    for path in paths:
        files = sorted((path / "results").glob("*.json")) if path.is_dir() else [path]
        if not files:
            raise InputError(
                f"{path}: no result yet; fastdual probe, knn, retrieve or finetune make one"
            )
        name = path.resolve().name if path.is_dir() else path.stem
        found += [(name, read_result(file)) for file in files]
    return found
