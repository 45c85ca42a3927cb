"""Classification by the k nearest training videos, weighted by their similarity.

Shapes: G training videos, Q test videos, F features, C classes.
"""

import torch
from torch import Tensor

from fastdual.errors import InputError
from fastdual.evaluate.classify import Classification
from fastdual.evaluate.features import FeatureSet
from fastdual.evaluate.pairs import check_pair
from fastdual.evaluate.retrieval import centre_and_normalise

_BLOCK_QUERIES = 1024


def knn(train: FeatureSet, test: FeatureSet, *, k: int, temperature: float) -> Classification:
    """Score classes by the votes of the k nearest training videos.

    Each side is centred by its own mean, as in retrieval: with k = 1 the accuracy is R@1.

    Args:
        train: Labelled videos.
        test: Videos of the same network and classes.
        k: Number of votes.
        temperature: A vote weighs exp(cosine / temperature).

    Raises:
        InputError: A pair that cannot be compared (see `check_pair`), or fewer than k
            training videos.
    """
    labels = check_pair(train, test)
    if not 1 <= k <= len(train):
        raise InputError(f"--k {k}: there are {len(train)} training videos; choose fewer votes")
    scores = vote(
        torch.from_numpy(train.features),
        torch.from_numpy(train.labels),
        torch.from_numpy(test.features),
        k=k,
        temperature=temperature,
        num_classes=len(train.class_names),
    )
    return Classification(
        scores=scores.numpy(), labels=labels, groups=test.groups, class_names=train.class_names
    )


def vote(
    train: Tensor, labels: Tensor, test: Tensor, *, k: int, temperature: float, num_classes: int
) -> Tensor:
    """Return the votes of the nearest training videos, [Q, C]; those of a row sum to 1.

    A class without a vote has -1, so that it is never among the first five by a tie.

    Args:
        train: [G, F] features.
        labels: [G] class numbers of `train`.
        test: [Q, F] features.
        k: Number of votes.
        temperature: A vote weighs exp(cosine / temperature).
        num_classes: C.
    """
    train, test = centre_and_normalise(train), centre_and_normalise(test)
    votes = []
    for block in torch.split(test, _BLOCK_QUERIES):
        similarity, nearest = (block @ train.T).topk(k, dim=1)  # [q, k]
        weights = torch.softmax(similarity / temperature, dim=1)
        classes = labels[nearest].long()
        total = torch.zeros(len(block), num_classes, dtype=torch.float64)
        total.scatter_add_(1, classes, weights)
        voted = torch.zeros_like(total, dtype=torch.bool).scatter_(1, classes, True)
        votes.append(total.masked_fill(~voted, -1.0))
    return torch.cat(votes)
