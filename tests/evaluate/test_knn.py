"""The nearest neighbours: their votes, and retrieval as the case of one."""

import pytest
import torch

from fastdual.errors import InputError
from fastdual.evaluate.knn import knn, vote
from fastdual.evaluate.retrieval import retrieve
from tests.evaluate.synthetic import drawn_features


def test_one_neighbour_is_retrieval_at_one() -> None:
    train, test = drawn_features(seed=0, noise=1.5), drawn_features(seed=1, noise=1.5)
    found = knn(train, test, k=1, temperature=0.07).correct(1).mean()
    assert found == retrieve(train, test).recall(1)


def test_votes_are_weighted_by_similarity() -> None:
    train = torch.tensor([[1.0, 0.0], [-1.0, 0.1], [-1.0, -0.1]])
    test = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    labels = torch.tensor([0, 1, 1], dtype=torch.int32)
    even = vote(train, labels, test, k=3, temperature=1e6, num_classes=3)
    assert torch.allclose(even, torch.tensor([[1 / 3, 2 / 3, -1.0]] * 2, dtype=torch.float64))
    sharp = vote(train, labels, test, k=3, temperature=0.01, num_classes=3)
    assert sharp.argmax(dim=1).tolist() == [0, 1]


def test_more_votes_than_videos_are_refused() -> None:
    train, test = drawn_features(seed=0), drawn_features(seed=1)
    with pytest.raises(InputError, match="--k 49: there are 48 training videos"):
        knn(train, test, k=49, temperature=1.0)
