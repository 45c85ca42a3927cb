"""Retrieval against a plain loop over the full matrix, and what may not be compared."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fastdual.evaluate.features import FeatureSet
from fastdual.evaluate.retrieval import PAPER_KS, first_match_ranks, retrieve
from tests.evaluate.test_features import feature_set


def side(features: NDArray[np.float32], labels: list[int], name: str) -> FeatureSet:
    return replace(
        feature_set(len(labels)),
        features=features,
        paths=tuple(f"{name}/{i}.mp4" for i in range(len(labels))),
        labels=np.array(labels, np.int32),
        class_names=tuple("abcdefgh"),
        splits={},
    )


def random_sides(num_gallery: int, num_queries: int) -> tuple[FeatureSet, FeatureSet]:
    rng = np.random.default_rng(num_gallery)
    gallery = rng.standard_normal((num_gallery, 7), dtype=np.float32) + 3
    queries = rng.standard_normal((num_queries, 7), dtype=np.float32) - 1
    gallery_labels = [*range(8), *rng.integers(0, 8, num_gallery - 8).tolist()]
    query_labels = rng.integers(0, 8, num_queries).tolist()
    return side(gallery, gallery_labels, "train"), side(queries, query_labels, "test")


def recall_by_plain_loop(gallery: FeatureSet, queries: FeatureSet, k: int) -> float:
    """The protocol, word by word: centre each side, cosine, sort, look among the first k."""
    gallery_mean = gallery.features.astype(np.float64).mean(axis=0)
    query_mean = queries.features.astype(np.float64).mean(axis=0)
    hits = 0
    for query, label in zip(queries.features, queries.labels, strict=True):
        query = query - query_mean
        scores = []
        for video in gallery.features:
            video = video - gallery_mean
            scores.append(query @ video / np.linalg.norm(query) / np.linalg.norm(video))
        nearest = np.argsort(scores)[::-1][:k]
        hits += bool((gallery.labels[nearest] == label).any())
    return hits / len(queries)


@pytest.mark.parametrize(("num_gallery", "num_queries"), [(8, 3), (60, 33), (137, 70), (9, 1100)])
def test_recall_matches_a_plain_loop(num_gallery: int, num_queries: int) -> None:
    """The last case has more queries than are compared at once."""
    gallery, queries = random_sides(num_gallery, num_queries)
    result = retrieve(gallery, queries)
    for k in PAPER_KS:
        if k <= num_gallery:
            assert result.recall(k) == recall_by_plain_loop(gallery, queries, k)
        else:
            assert result.recall(k) is None
    assert result.recall(num_gallery) == 1.0


def test_collapsed_network_scores_nothing() -> None:
    """All features equal: every video ties, and a tie must not count as found."""
    labels = [0, 1, 0, 1]
    gallery = side(np.ones((4, 3), np.float32), labels, "train")
    queries = side(np.ones((4, 3), np.float32), labels, "test")
    assert retrieve(gallery, queries).recall(1) == 0.0


def test_each_side_is_centred_by_its_own_mean() -> None:
    """An offset of all queries, as between two kinds of recording, changes nothing."""
    gallery, queries = random_sides(60, 33)
    moved = replace(queries, features=queries.features + 100)
    assert retrieve(gallery, moved).recall(1) == retrieve(gallery, queries).recall(1)


def test_labels_are_matched_by_class_name() -> None:
    gallery, queries = random_sides(60, 33)
    order = np.array([3, 1, 7, 0, 2, 6, 5, 4], np.int32)
    names = tuple(np.array(tuple("abcdefgh"))[np.argsort(order)])
    renumbered = replace(queries, labels=order[queries.labels], class_names=names)
    assert np.array_equal(retrieve(gallery, renumbered).ranks, retrieve(gallery, queries).ranks)


def test_ranks_of_a_hand_made_case() -> None:
    """Along one axis after centring: gallery at -1 (label 0), 0.5 (1), 0.5+ (1) on the circle."""
    gallery = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])  # mean 0
    queries = torch.tensor([[1.0, 0.2], [-1.0, -0.2]])  # mean 0
    ranks = first_match_ranks(gallery, torch.tensor([0, 1, 2]), queries, torch.tensor([1, 0]))
    # Query 0 looks along +x: nearest label 0, then label 1. Query 1 along -x: 2, then 1, then 0.
    assert ranks.tolist() == [2, 3]
