"""The augmentation and permutations of the plan: probabilities, ranges, independence."""

from collections import Counter

import numpy as np
import pytest

from fastdual.loaders.plan import ClipSpec
from tests.loaders.plans import MANY, assert_same_plan, draw


def test_evaluation_draws_nothing_and_crops_the_centre():
    plan = draw(ClipSpec(mode="evaluate"), [100, 40])
    other = draw(ClipSpec(mode="evaluate"), [100, 40], seed=9, epoch=3)
    assert_same_plan(plan, other)
    assert (plan.crop_y == 8).all() and (plan.crop_x == 30).all()
    assert (plan.jitter == (1, 1, 1, 0)).all()
    assert not plan.blur_sigma.any() and not plan.flip.any() and plan.permutation is None
    assert plan.view_clip == tuple(range(10))


def test_augmentation_probabilities_and_ranges():
    plan = draw(ClipSpec(), np.full(MANY, 100))
    jittered = (plan.jitter != (1, 1, 1, 0)).any(axis=2)
    blurred = plan.blur_sigma > 0
    # View 0 is left alone with probability 0.2; the others never are.
    assert np.abs(jittered.mean(axis=0) - [0.8 * 0.64, 0.64, 0.64]).max() < 0.015
    assert np.abs(blurred.mean(axis=0) - [0.8 * 0.5, 0.5, 0.5]).max() < 0.015
    together = (jittered[:, 0] & blurred[:, 0]).mean()
    assert abs(together - 0.8 * 0.64 * 0.5) < 0.015  # one draw decides over both
    factors = plan.jitter[jittered]
    assert factors[:, :3].min() >= 0.2 and factors[:, :3].max() < 1.8
    assert factors[:, 3].min() >= -72 and factors[:, 3].max() < 72
    assert np.abs(factors.mean(axis=0) - [1, 1, 1, 0]).max() < 1.0
    assert np.abs(factors.std(axis=0) / [1.6, 1.6, 1.6, 144] - 12**-0.5).max() < 0.005
    sigmas = plan.blur_sigma[blurred]
    assert sigmas.min() >= 0.1 and sigmas.max() < 2.0 and abs(sigmas.mean() - 1.05) < 0.02
    assert not plan.flip.any()
    assert set(np.unique(plan.crop_y)) == set(range(17))
    assert set(np.unique(plan.crop_x)) == set(range(60))


def test_views_are_augmented_independently():
    plan = draw(ClipSpec(), np.full(MANY, 100))
    values = np.concatenate([plan.crop_y, plan.crop_x, plan.blur_sigma], axis=1)
    correlation = np.corrcoef(values.T) - np.eye(values.shape[1])
    correlation[[6, 7, 8], [6, 7, 8]] = 0
    assert np.abs(correlation).max() < 0.035


def test_finetuning_flips_and_jitters_but_does_not_blur():
    plan = draw(ClipSpec(mode="finetune"), np.full(MANY, 100))
    assert plan.view_clip == (0,)
    assert abs(plan.flip.mean() - 0.5) < 0.015
    assert abs((plan.jitter != (1, 1, 1, 0)).any(axis=2).mean() - 0.64) < 0.015
    assert not plan.blur_sigma.any()


def test_each_of_the_views_is_a_clip_and_an_augmentation_of_its_own():
    spec = ClipSpec(mode="independent", clips_per_video=3, frames_per_clip=5, frame_stride=2)
    plan = draw(spec, np.full(MANY, 30))
    assert plan.view_clip == (0, 1, 2) and plan.frames.shape == (MANY, 3, 5)
    assert (np.diff(plan.frames, axis=2) == 2).all() and plan.permutation is None
    starts = plan.frames[:, :, 0]
    assert set(np.unique(starts)) == set(range(22))  # frame 21 + 4 * 2 is the last one
    values = np.concatenate([starts, plan.crop_y, plan.crop_x, plan.flip, plan.blur_sigma], axis=1)
    correlation = np.corrcoef(values.T) - np.eye(values.shape[1])
    assert np.abs(correlation).max() < 0.035
    assert np.abs((plan.jitter != (1, 1, 1, 0)).any(axis=2).mean(axis=0) - 0.64).max() < 0.015
    assert np.abs((plan.blur_sigma > 0).mean(axis=0) - 0.5).max() < 0.015


def test_views_of_a_short_video_repeat_its_last_frame():
    spec = ClipSpec(mode="independent", clips_per_video=2, frames_per_clip=4, frame_stride=2)
    assert draw(spec, 3).frames.tolist() == [[[0, 2, 2, 2]] * 2]


@pytest.mark.parametrize("segments", [1, 2, 4])
def test_permutations_are_uniform_with_the_identity(segments):
    spec = ClipSpec(num_segments=segments)
    permutation = draw(spec, np.full(MANY, 50)).permutation
    assert (np.sort(permutation, axis=1) == np.arange(segments)).all()
    counts = Counter(map(tuple, permutation.tolist()))
    orders = {1: 1, 2: 2, 4: 24}[segments]
    assert len(counts) == orders and tuple(range(segments)) in counts
    expected = MANY / orders
    chi_square = sum((n - expected) ** 2 / expected for n in counts.values())
    assert chi_square < {1: 1, 2: 10.8, 4: 49.7}[segments]  # p = 0.001
