"""Nearest-neighbour retrieval: is a video of the query's class among the k nearest? (METHOD.md 6)

Shapes: Q queries, G gallery videos, F features.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastdual.errors import InputError
from fastdual.evaluate.features import FeatureSet

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
    query_labels = check_sides(gallery, queries, names=("gallery", "queries"))
    ranks = first_match_ranks(
        torch.from_numpy(gallery.features),
        torch.from_numpy(gallery.labels),
        torch.from_numpy(queries.features),
        torch.from_numpy(query_labels),
    )
    return RetrievalResult(ranks=ranks.numpy(), labels=query_labels, num_gallery=len(gallery))


def check_sides(
    train: FeatureSet, test: FeatureSet, *, names: tuple[str, str]
) -> NDArray[np.int32]:
    """Make sure that one side may be scored against the other.

    Args:
        train: the videos that are known (gallery, training split).
        test: the videos that are asked about.
        names: what the two are called in errors.

    Returns:
        Labels of `test` as numbers of `train.class_names`.

    Raises:
        InputError: other networks, missing labels, a class without a video in `train`, shared
            videos.
    """
    _check_same_network(train, test, names)
    _check_labelled(train, names[0])
    _check_labelled(test, names[1])
    _check_disjoint(train, test, names)
    labels = _labels_in(train.class_names, test)
    _check_classes_present(train, test, labels, names)
    return labels


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


def _check_same_network(train: FeatureSet, test: FeatureSet, names: tuple[str, str]) -> None:
    both = " and ".join(names)
    if train.weights_sha256 != test.weights_sha256:
        raise InputError(
            f"{both} come from two networks (checkpoint {train.weights_sha256[:12]} and "
            f"{test.weights_sha256[:12]}); embed both with one"
        )
    if train.settings != test.settings:
        keys = sorted(
            key
            for key in train.settings.keys() | test.settings.keys()
            if train.settings.get(key) != test.settings.get(key)
        )
        raise InputError(
            f"{both} were embedded with different settings ({', '.join(keys)}); embed both alike"
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


def _check_disjoint(train: FeatureSet, test: FeatureSet, names: tuple[str, str]) -> None:
    if train.data_fingerprint != test.data_fingerprint:
        return
    shared = set(train.paths) & set(test.paths)
    if shared:
        raise InputError(
            f"{len(shared)} videos are in the {names[0]} and among the {names[1]}, first "
            f"{min(shared)}; a video would find itself: choose splits that share none"
        )


def _labels_in(class_names: tuple[str, ...], test: FeatureSet) -> NDArray[np.int32]:
    """The labels of `test` as numbers of `class_names`; -1 for a class that is not among them."""
    numbers = {name: number for number, name in enumerate(class_names)}
    table = np.array([numbers.get(name, -1) for name in test.class_names], dtype=np.int32)
    return table[test.labels]


def _check_classes_present(
    train: FeatureSet, test: FeatureSet, labels: NDArray[np.int32], names: tuple[str, str]
) -> None:
    absent = ~np.isin(labels, train.labels)
    if absent.any():
        absent_names = sorted({test.class_names[i] for i in test.labels[absent]})
        shown = ", ".join(absent_names[:5]) + (", ..." if len(absent_names) > 5 else "")
        raise InputError(
            f"{int(absent.sum())} {names[1]} can find nothing: no {names[0]} video of class "
            f"{shown}; choose splits that share their classes"
        )
