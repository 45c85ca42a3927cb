"""The mean over the splits of one method, and whether results are of one method at all."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fastdual.config.stored import RESUME_KEYS
from fastdual.errors import InputError, shown

# The splits are what may differ; the other keys say how the work is done, not what is computed.
_FREE_KEYS = RESUME_KEYS | {"data.split", "test.split"}


def mean_and_deviation(splits: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """Return mean and standard deviation, over the splits, of each metric that all splits have.

    The deviation of a single split is nan.
    """
    found = {}
    for name in splits[0]["metrics"]:
        if all(name in split["metrics"] for split in splits):
            values = [split["metrics"][name]["value"] for split in splits]
            deviation = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
            found[name] = (float(np.mean(values)), deviation)
    return found


def check_one_method(found: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Make sure that results, each with its origin, differ in nothing but their splits.

    Raises:
        InputError: They differ in something else, have a split in common, or are of one split;
            names the origins and the values.
    """
    owner: dict[str, str] = {}
    (first_origin, first), *_ = found
    for origin, result in found:
        here = _named(origin, result)
        for key, ours, theirs in _differences(first, result):
            raise InputError(
                f"--mean: {key} is {shown(ours)} in {_named(first_origin, first)} and "
                f"{shown(theirs)} in {here}: name results "
                "that differ in their split alone"
            )
        for split in result["splits"]:
            if split["test"] in owner:
                raise InputError(
                    f"--mean: the split {shown(split['test'])} is in {owner[split['test']]} and in "
                    f"{here}: name one result per split"
                )
        owner |= {split["test"]: here for split in result["splits"]}
    if len(owner) < 2:
        raise InputError(
            f"--mean: only the split {shown(next(iter(owner)))} is there; name more results"
        )


def _named(origin: str, result: Mapping[str, Any]) -> str:
    task, test = (str(of)[:100] for of in (result["task"], result["splits"][0]["test"]))
    return f"{origin} ({task} on {test})"


def _differences(
    first: Mapping[str, Any], other: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    ours, theirs = _method(first), _method(other)
    for key in [*ours, *(key for key in theirs if key not in ours)]:
        if ours.get(key) != theirs.get(key):
            yield key, ours.get(key), theirs.get(key)


def _method(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that decides the numbers of a result, except its splits."""
    settings = dict(result["settings"])
    config = settings.pop("config", {})
    return {
        **{key: result[key] for key in ("task", "checkpoint", "data_fingerprint")},
        **settings,
        **{key: value for key, value in config.items() if key not in _FREE_KEYS},
    }
