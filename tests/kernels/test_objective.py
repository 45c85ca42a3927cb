"""The objectives are the sums of losses that their names say."""

from itertools import combinations

from fastdual.kernels.objective import Objective, Part


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
