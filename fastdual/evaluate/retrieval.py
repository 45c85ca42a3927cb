"""Nearest-neighbour retrieval: is a video of the query's class among the k nearest? (METHOD.md 6)

Shapes: Q queries, G gallery videos, F features.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastdual.evaluate.features import FeatureSet
from fastdual.loaders.errors import InputError

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
        """R@k as a share; None where the gallery holds fewer than k videos."""
        return float((self.ranks <= k).mean()) if k <= self.num_gallery else None


def retrieve(gallery: FeatureSet, queries: FeatureSet) -> RetrievalResult:
    """Look every query up in the gallery; each side is centred by its own mean, then cosine.

    Args:
        gallery: the videos searched (the train split).
        queries: the videos looked up (the test split); of the same network.

    Raises:
        InputError: other networks, missing labels, a class without a gallery video, shared videos.
    """
    _check_same_network(gallery, queries)
    _check_labelled(gallery, "gallery")
    _check_labelled(queries, "queries")
    _check_disjoint(gallery, queries)
    query_labels = _labels_in(gallery.class_names, queries)
    _check_classes_present(gallery, queries, query_labels)
    ranks = first_match_ranks(
        torch.from_numpy(gallery.features),
        torch.from_numpy(gallery.labels),
        torch.from_numpy(queries.features),
        torch.from_numpy(query_labels),
    )
    return RetrievalResult(ranks=ranks.numpy(), labels=query_labels, num_gallery=len(gallery))


def first_match_ranks(
    gallery: Tensor, gallery_labels: Tensor, queries: Tensor, query_labels: Tensor
) -> Tensor:
    """Place, from 1, of the nearest gallery row that has the query's label.

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
    """[N, F] minus its own mean over N, each row scaled to length 1 (a zero row stays zero)."""
    wide = features.double()
    return torch.nn.functional.normalize(wide - wide.mean(dim=0), dim=1)


def _check_same_network(gallery: FeatureSet, queries: FeatureSet) -> None:
    if gallery.checkpoint != queries.checkpoint:
        raise InputError(
            f"gallery and queries come from two networks (checkpoint {gallery.checkpoint[:12]} and "
            f"{queries.checkpoint[:12]}); embed both with one"
        )
    if gallery.settings != queries.settings:
        keys = sorted(
            key
            for key in gallery.settings.keys() | queries.settings.keys()
            if gallery.settings.get(key) != queries.settings.get(key)
        )
        raise InputError(
            f"gallery and queries were embedded with different settings ({', '.join(keys)}); "
            "embed both alike"
        )


def _check_labelled(side: FeatureSet, name: str) -> None:
    if not len(side):
        raise InputError(f"the {name} are empty: no video in this split")
    unlabelled = int((side.labels < 0).sum())
    if unlabelled:
        raise InputError(
            f"{unlabelled} of the {len(side)} videos of the {name} have no label; index them from "
            "class folders or a CSV with a label column"
        )


def _check_disjoint(gallery: FeatureSet, queries: FeatureSet) -> None:
    if gallery.data_fingerprint != queries.data_fingerprint:
        return
    shared = set(gallery.paths) & set(queries.paths)
    if shared:
        raise InputError(
            f"{len(shared)} videos are in the gallery and among the queries, first {min(shared)}; "
            "a video would find itself: choose splits that share none"
        )


def _labels_in(class_names: tuple[str, ...], queries: FeatureSet) -> NDArray[np.int32]:
    """The queries' labels as numbers of `class_names`; -1 for a class that is not among them."""
    numbers = {name: number for number, name in enumerate(class_names)}
    table = np.array([numbers.get(name, -1) for name in queries.class_names], dtype=np.int32)
    return table[queries.labels]


def _check_classes_present(
    gallery: FeatureSet, queries: FeatureSet, query_labels: NDArray[np.int32]
) -> None:
    absent = ~np.isin(query_labels, gallery.labels)
    if absent.any():
        names = sorted({queries.class_names[i] for i in queries.labels[absent]})
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise InputError(
            f"{int(absent.sum())} queries can find nothing: no gallery video of class {shown}; "
            "choose splits that share their classes"
        )
