"""The objectives are the sums of losses that their names say."""

from itertools import combinations

import pytest
import torch

from fastdual import functional
from fastdual.kernels.objective import DualVarianceSettings, Objective, Part
from fastdual.losses import DualVarianceLoss
from tests.embeddings import dual_inputs


def test_every_combination_of_parts_is_an_objective_by_its_name() -> None:
    parts = ("clip", "rank", "coherence")
    names = {"+".join(some) for size in (1, 2, 3) for some in combinations(parts, size)}
    assert {objective.value for objective in Objective} == names
    for objective in Objective:
        assert "+".join(objective.parts) == objective == Objective(str(objective))
    assert set(Objective.CLIP_RANK_COHERENCE.parts) == set(Part)


def test_an_objective_needs_the_views_that_its_parts_compare() -> None:
    assert Objective("clip").views == Objective("coherence").views == (0, 1)
    assert Objective("clip+coherence").views == (0, 1)
    assert Objective("rank").views == (0, 2, 3)
    assert Objective("rank+coherence").views == Objective("clip+rank").views == (0, 1, 2, 3)


def test_settings_mean_the_same_to_the_function_and_to_the_module() -> None:
    inputs = dual_inputs(6, 2)
    settings = DualVarianceSettings("clip+rank", clip_temperature=0.2, rank_clip=5, rank_weight=2)
    (ours, theirs) = (
        functional.dual_variance_loss(*inputs, settings, backend="eager"),
        DualVarianceLoss(**settings._asdict(), backend="eager")(*inputs),
    )
    assert torch.equal(ours.total, theirs.total) and ours.coherence is theirs.coherence is None
    assert torch.equal(ours.total, ours.clip + 2 * ours.rank)


def test_a_learned_temperature_is_the_modules_own_when_it_is_called() -> None:
    """Whatever takes a module's parameters from outside, as torch.func does, is heard."""
    learned = torch.nn.Parameter(torch.tensor(0.2))
    loss = DualVarianceLoss("clip", clip_temperature=learned, backend="eager")
    assert [name for name, _ in loss.named_parameters()] == ["clip_temperature"]
    other = {"clip_temperature": torch.tensor(0.5)}
    called = torch.func.functional_call(loss, other, dual_inputs(6, 2))
    expected = DualVarianceLoss("clip", clip_temperature=0.5, backend="eager")(*dual_inputs(6, 2))
    torch.testing.assert_close(called.total, expected.total)


def test_settings_that_cannot_be_meant_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="^coherence_weight is -1, must be a finite number"):
        DualVarianceSettings(coherence_weight=-1).checked()
    with pytest.raises(TypeError, match="DualVarianceSettings.* 'clip_temprature'"):
        DualVarianceLoss(clip_temprature=0.1)
