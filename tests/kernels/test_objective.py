"""The objectives are the sums of losses that their names say."""

from fastdual.kernels.objective import Objective, Part


def test_an_objective_is_its_name_and_has_the_parts_that_it_names() -> None:
    assert [objective.value for objective in Objective] == [
        "clip",
        "clip+rank",
        "clip+rank+coherence",
    ]
    for objective in Objective:
        assert "+".join(objective.parts) == objective == Objective(str(objective))
    assert set(Objective.CLIP_RANK_COHERENCE.parts) == set(Part)
