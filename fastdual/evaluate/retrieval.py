"""Nearest-neighbour retrieval: is a video of the query's class among the k nearest? (METHOD.md 6)

Shapes: Q queries, G gallery videos, F features.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastdual.errors import printable
from fastdual.evaluate.classify import interval
from fastdual.evaluate.features import FeatureSet
from fastdual.evaluate.pairs import RETRIEVAL_NAMES, Pair, check_pair

PAPER_KS = (1, 5, 10, 20, 50)
_BLOCK_QUERIES = 1024


@dataclass(frozen=True, kw_only=True)
class RetrievalResult:
    """Where each query found its class.

    Attributes:
        ranks: [Q] place (from 1) of the nearest gallery video of the query's class.
        labels: [Q] class of each query.
        num_gallery: G.
    """

    ranks: NDArray[np.int64]
    labels: NDArray[np.int32]
    num_gallery: int

    def recall(self, k: int) -> float | None:
        """Return R@k as a share; None if the gallery holds fewer than k videos."""
        return float((self.ranks <= k).mean()) if k <= self.num_gallery else None


def retrieve(gallery: FeatureSet, queries: FeatureSet) -> RetrievalResult:
    """Look every query up in the gallery; each side is centred by its own mean, then cosine.

    Args:
        gallery: The videos that are searched: the training split.
        queries: The videos that are looked up: the test split, embedded by the same network.

    Raises:
        InputError: Other networks, missing labels, a class without a gallery video, shared videos.
    """
    query_labels = check_pair(gallery, queries, names=RETRIEVAL_NAMES)
    ranks = first_match_ranks(
        torch.from_numpy(gallery.features),
        torch.from_numpy(gallery.labels),
        torch.from_numpy(queries.features),
        torch.from_numpy(query_labels),
    )
    return RetrievalResult(ranks=ranks.numpy(), labels=query_labels, num_gallery=len(gallery))


def retrieval_report(pair: Pair) -> dict[str, Any]:
    """Score a gallery (training videos) by queries (test videos), as plain values.

    Raises:
        InputError: A pair that cannot be compared (see `check_pair`).
    """
    result = retrieve(pair.train, pair.test)
    return {
        "gallery": pair.train_name,
        "queries": pair.test_name,
        "num_gallery": len(pair.train),
        "num_queries": len(pair.test),
        "num_classes": len(np.unique(pair.train.labels)),
        "recall": {str(k): result.recall(k) for k in PAPER_KS},
        "metrics": {
            f"R@{k}": interval(result.ranks <= k, pair.test.groups)
            for k in PAPER_KS
            if k <= result.num_gallery
        },
        "chance": _chance(pair.train, result),
        "checkpoint": pair.train.weights_sha256,
    }


def retrieval_table(report: dict[str, Any]) -> str:
    """Return a report of `retrieval_report` as lines for people."""
    shares = {f"R@{k}": share for k, share in report["recall"].items()}
    cells = ["-" if share is None else f"{100 * share:.1f}" for share in shares.values()]
    beyond = [name for name, share in shares.items() if share is None]
    weights = str(report["checkpoint"])
    weights = weights if weights.startswith("random") else f"weights {weights[:12]}"
    lines = [
        f"{report['num_queries']} queries ({report['queries']}), {report['num_gallery']} gallery "
        f"videos ({report['gallery']}), {report['num_classes']} classes; {weights}",
        "  ".join(f"{name:>5}" for name in shares),
        "  ".join(f"{cell:>5}" for cell in cells),
        f"in %; a random order would give R@1 {100 * report['chance']:.1f}",
    ]
    if beyond:
        lines.append(f"{', '.join(beyond)}: more than the {report['num_gallery']} gallery videos")
    return "\n".join(map(printable, lines))


def _chance(gallery: FeatureSet, result: RetrievalResult) -> float:
    """Return R@1 of a random order of the gallery."""
    share = np.bincount(gallery.labels) / len(gallery)
    return float(share[result.labels].mean())


def first_match_ranks(
    gallery: Tensor, gallery_labels: Tensor, queries: Tensor, query_labels: Tensor
) -> Tensor:
    """Return the place, from 1, of the nearest gallery row that has the query's label.

    Ties count against the query: a network that maps every video to one point scores nothing.

    Args:
        gallery: [G, F]; every query's label is among `gallery_labels` [G].
        queries: [Q, F] with `query_labels` [Q].

    Returns:
        [Q] int64, each in 1..G.
    """
    gallery, queries = centre_and_normalise(gallery), centre_and_normalise(queries)
    ranks = []
    for start in range(0, len(queries), _BLOCK_QUERIES):
        block = slice(start, start + _BLOCK_QUERIES)
        similarity = queries[block] @ gallery.T  # [q, G]
        same = query_labels[block, None] == gallery_labels[None]
        best = similarity.masked_fill(~same, -torch.inf).amax(dim=1, keepdim=True)
        ranks.append(1 + ((similarity >= best) & ~same).sum(dim=1))
    return torch.cat(ranks) if ranks else torch.zeros(0, dtype=torch.int64)


def centre_and_normalise(features: Tensor) -> Tensor:
    """Return [N, F] minus its mean over N, each row scaled to length 1 (a zero row stays zero)."""
    wide = features.double()
    return torch.nn.functional.normalize(wide - wide.mean(dim=0), dim=1)
