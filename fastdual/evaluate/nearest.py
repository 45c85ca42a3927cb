"""The nearest videos of videos: what a network finds alike, whether or not there are classes.

Shapes: N videos, F features.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastdual.errors import printable
from fastdual.evaluate.features import FeatureSet
from fastdual.evaluate.retrieval import centre_and_normalise
from fastdual.loaders.files import write

_BLOCK_QUERIES = 1024


@dataclass(frozen=True)
class Lookup:
    """A query and its nearest gallery videos; rows of the features, with the cosines."""

    query: int
    found: tuple[int, ...]
    cosines: tuple[float, ...]


def look_up(
    features: FeatureSet,
    splits: tuple[str, str],
    count: int,
    shown: NDArray[np.int64] | None = None,
) -> tuple[Lookup, ...]:
    """Return the `count` nearest gallery videos of queries; a video never finds itself.

    Args:
        features: Of the videos of both splits, each centred by its own mean, as in retrieval.
        splits: Names of gallery and queries, which may be the same.
        count: Videos to find, fewer where the gallery has fewer.
        shown: Places of the wanted queries in their split; None: all of them.
    """
    gallery, queries = (features.split(split) for split in splits)
    if not len(gallery) or not len(queries):
        return ()
    gallery_rows, query_rows = (
        centre_and_normalise(torch.from_numpy(features.features[rows]))
        for rows in (gallery, queries)
    )
    shown = np.arange(len(queries)) if shown is None else shown
    lookups: list[Lookup] = []
    for start in range(0, len(shown), _BLOCK_QUERIES):
        block = shown[start : start + _BLOCK_QUERIES]
        similarity = query_rows[block] @ gallery_rows.T
        itself = torch.from_numpy(queries[block][:, None] == gallery[None])
        similarity = similarity.masked_fill(itself, -torch.inf)
        others = len(gallery) - int(itself.any())
        cosines, nearest = similarity.topk(min(count, others), dim=1)
        lookups += (
            Lookup(int(queries[query]), tuple(gallery[row].tolist()), tuple(values.tolist()))
            for query, row, values in zip(block, nearest.numpy(), cosines, strict=True)
        )
    return tuple(lookups)


def drawn(count: int, wanted: int) -> NDArray[np.int64]:
    """Return `wanted` of `count` places, drawn at random but the same each time, rising."""
    return np.sort(np.random.default_rng(0).permutation(count)[:wanted])


def nearest_rows(features: FeatureSet, lookups: Sequence[Lookup]) -> list[dict[str, Any]]:
    """Return lookups as rows of a table: query, place from 1, path, cosine."""
    return [
        {
            "query": features.paths[lookup.query],
            "place": place,
            "path": features.paths[row],
            "cosine": round(cosine, 6),
        }
        for lookup in lookups
        for place, (row, cosine) in enumerate(
            zip(lookup.found, lookup.cosines, strict=True), start=1
        )
    ]


def nearest_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows of `nearest_rows` as lines for people."""
    lines = []
    for row in rows:
        if row["place"] == 1:
            lines.append(row["query"])
        lines.append(f"  {row['cosine']:5.2f}  {row['path']}")
    return "\n".join(map(printable, lines))


def save_nearest(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows of `nearest_rows` as CSV.

    Raises:
        FailureError: The file cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, ("query", "place", "path", "cosine"), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write(path, text.getvalue(), "the nearest videos")
