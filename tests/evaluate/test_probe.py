"""The linear probe: known classes, a chosen penalty, bad input."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fastdual.errors import InputError
from fastdual.evaluate.features import FeatureSet
from fastdual.evaluate.probe import PENALTIES, probe
from tests.evaluate.synthetic import drawn_features


def top1(train: FeatureSet, test: FeatureSet) -> float:
    return float(probe(train, test).classification.correct(1).mean())


def test_probe_separates_what_is_separable_and_guesses_at_noise() -> None:
    assert top1(drawn_features(seed=0), drawn_features(seed=1)) > 0.95
    blind = drawn_features(seed=0, noise=100.0)
    assert top1(blind, drawn_features(seed=1, noise=100.0)) < 0.5


def test_probe_matches_the_optimum_found_by_another_solver() -> None:
    train, test = drawn_features(seed=0, noise=2.0), drawn_features(seed=1, noise=2.0)
    result = probe(train, test)
    mean, scale = train.features.mean(0, dtype=np.float64), train.features.std(0, dtype=np.float64)
    x = torch.from_numpy((train.features - mean) / scale)
    weight = torch.zeros(8, 4, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        solver.zero_grad()
        fit = torch.nn.functional.cross_entropy(
            x @ weight + bias, torch.from_numpy(train.labels).long()
        )
        total = fit + 0.5 * result.penalty * weight.square().sum()
        total.backward()
        return total

    solver.step(loss)
    with torch.no_grad():
        expected = torch.log_softmax(
            torch.from_numpy((test.features - mean) / scale) @ weight + bias, 1
        )
    difference = np.abs(np.exp(result.classification.scores) - expected.exp().numpy()).max()
    assert difference < 2e-3  # scikit-learn stops at a gradient of 1e-4


def test_penalty_is_chosen_on_whole_groups() -> None:
    # A feature that names the film is a perfect shortcut within a film and misleads in others.
    train, test = drawn_features(seed=0, noise=3.0), drawn_features(seed=1, noise=3.0)
    result = probe(train, test)
    assert result.validated_by == "group"
    assert set(result.validation) == set(PENALTIES)
    assert result.validation[result.penalty] == max(result.validation.values())
    without = replace(train, groups=("",) * len(train))
    assert probe(without, test).validated_by == "video"


def test_constant_features_do_not_decide() -> None:
    train, test = drawn_features(seed=0), drawn_features(seed=1)
    train.features[:, 7] = 1.0
    test.features[:, 7] = 1e6
    assert top1(train, test) > 0.95


def test_bad_input_is_named() -> None:
    train, test = drawn_features(seed=0), drawn_features(seed=1)
    three = train.take(np.flatnonzero(train.labels < 3))
    one = train.take(np.flatnonzero(train.labels == 0))
    same_class = test.take(np.flatnonzero(test.labels == 0))
    unlabelled = replace(test, labels=np.full(len(test), -1, np.int32))
    each_once = train.take(np.arange(0, len(train), 12))
    cases = {
        "no training videos video of class class3": (three, test),
        "all training videos have one class": (one, same_class),
        "48 of the 48 videos of the test videos have no label": (train, unlabelled),
        "come from two networks": (train, replace(test, weights_sha256="0" * 64)),
        "none can be held out": (each_once, test),
        "48 videos are in the training videos and among the test videos": (train, train),
    }
    for message, sides in cases.items():
        with pytest.raises(InputError, match=message):
            probe(*sides)
