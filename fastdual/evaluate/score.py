"""A retrieval score with its origin: from a run and videos, or from files of features."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fastdual.errors import InputError
from fastdual.evaluate.classify import interval
from fastdual.evaluate.embed import EmbedOptions, Progress, embed
from fastdual.evaluate.features import FeatureSet, is_features_file
from fastdual.evaluate.retrieval import PAPER_KS, RetrievalResult, retrieve
from fastdual.loaders.index import VideoIndex
from fastdual.weights.load import Network


@dataclass(frozen=True)
class Sides:
    """Gallery and queries, and what each is called."""

    gallery: FeatureSet
    queries: FeatureSet
    gallery_name: str
    query_name: str


def sides_of_files(paths: list[Path], gallery: str | None, queries: str | None) -> Sides:
    """Gallery and queries from one features file with both splits, or from one file each.

    Args:
        paths: one file, or gallery and queries.
        gallery, queries: names of splits; None: train and test of one file, all of each of two.

    Raises:
        InputError: a damaged file or a missing split.
    """
    if len(paths) == 1:
        whole = FeatureSet.load(paths[0])
        names = (gallery or "train", queries or "test")
        return Sides(take_split(whole, names[0]), take_split(whole, names[1]), *names)
    sides = [
        take_split(FeatureSet.load(path), name)
        for path, name in zip(paths, (gallery, queries), strict=True)
    ]
    return Sides(sides[0], sides[1], gallery or paths[0].name, queries or paths[1].name)


def sides_of_run(
    network: Network,
    index: VideoIndex,
    *,
    gallery: str,
    queries: str,
    options: EmbedOptions,
    progress: Progress | None = None,
) -> Sides:
    """Embed two splits of an index under a network."""
    # Both splits must be there before an hour is spent on the first.
    total = len(index.split(gallery)) + len(index.split(queries))
    done_before, bad_before = 0, 0

    def both(done: int, _: int, bad: int) -> None:
        if progress is not None:
            progress(done_before + done, total, bad_before + bad)

    gallery_set = embed(network, index, split=gallery, options=options, progress=both)
    done_before = len(index.split(gallery))
    bad_before = done_before - len(gallery_set)
    query_set = embed(network, index, split=queries, options=options, progress=both)
    return Sides(gallery_set, query_set, gallery, queries)


def take_split(features: FeatureSet, name: str | None) -> FeatureSet:
    """The rows of a split and what is missing there, without their other splits; None: all."""
    return replace(features.take(features.split(name)), left_out=features.left_out_of(name))


def retrieval_report(sides: Sides) -> dict[str, Any]:
    """Score two sides; plain values that can be written as JSON.

    Raises:
        InputError: sides that cannot be compared (see `retrieval.retrieve`).
    """
    result = retrieve(sides.gallery, sides.queries)
    return {
        "gallery": sides.gallery_name,
        "queries": sides.query_name,
        "num_gallery": len(sides.gallery),
        "num_queries": len(sides.queries),
        "num_classes": len(np.unique(sides.gallery.labels)),
        "recall": {str(k): result.recall(k) for k in PAPER_KS},
        "metrics": {
            f"R@{k}": interval(result.ranks <= k, sides.queries.groups)
            for k in PAPER_KS
            if k <= result.num_gallery
        },
        "chance": _chance(sides.gallery, result),
        "checkpoint": sides.gallery.weights_sha256,
    }


def retrieval_table(report: dict[str, Any]) -> str:
    """A report as lines for people."""
    shares = {f"R@{k}": share for k, share in report["recall"].items()}
    cells = ["-" if share is None else f"{100 * share:.1f}" for share in shares.values()]
    beyond = [name for name, share in shares.items() if share is None]
    lines = [
        f"{report['num_queries']} queries ({report['queries']}), {report['num_gallery']} gallery "
        f"videos ({report['gallery']}), {report['num_classes']} classes; "
        f"{report['checkpoint'][:24]}",
        "  ".join(f"{name:>5}" for name in shares),
        "  ".join(f"{cell:>5}" for cell in cells),
        f"per cent; a random order would give R@1 {100 * report['chance']:.1f}",
    ]
    if beyond:
        lines.append(f"{', '.join(beyond)}: more than the {report['num_gallery']} gallery videos")
    return "\n".join(lines)


def _chance(gallery: FeatureSet, result: RetrievalResult) -> float:
    """R@1 of a random order of the gallery."""
    share = np.bincount(gallery.labels) / len(gallery)
    return float(share[result.labels].mean())


def sort_inputs(source: Path, data: Path | None) -> list[Path] | None:
    """The features files that `retrieve` was given, or None for a run and its videos.

    Raises:
        InputError: neither makes sense.
    """
    if is_features_file(source):
        if data is not None and not is_features_file(data):
            raise InputError(
                f"{data}: not a features file, but {source} is one; give two features files, or a "
                "run and its videos"
            )
        return [source] if data is None else [source, data]
    if data is None:
        raise InputError(
            f"{source}: not a features file, so a run: name its videos too (an index or a folder)"
        )
    if is_features_file(data):
        raise InputError(f"{data}: a features file, but {source} is none; give the gallery first")
    return None
