"""The place of a process, from the variables of torchrun and srun."""

import pytest

from fastdual.distributed.world import World, first_node, read_world
from fastdual.errors import InputError


def test_the_place_that_torchrun_and_srun_give() -> None:
    assert read_world({}) == World()
    torchrun = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    assert read_world(torchrun) == World(5, 8, 1, 4, "torchrun")
    srun = {
        "SLURM_PROCID": "5",
        "SLURM_STEP_NUM_TASKS": "8",
        "SLURM_LOCALID": "1",
        "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
        "SLURM_STEP_NODELIST": "gpu[03-04]",
        "SLURM_JOB_ID": "41002",
        "SLURM_STEP_ID": "1",
    }
    assert read_world(srun) == World(5, 8, 1, 4, "slurm", ("gpu03", 21_003))
    # A batch script is a single process, however many tasks its job may start.
    assert read_world({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}) == World()


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "LOCAL_RANK = ''"),
        ({"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "rank 2 is not in a world of 2"),
        ({"RANK": "x", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "RANK = 'x'"),
        ({"SLURM_STEP_NUM_TASKS": "x"}, "SLURM_STEP_NUM_TASKS = 'x'"),
    ],
)
def test_variables_that_contradict_each_other_are_refused(
    environment: dict[str, str], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        read_world(environment)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node1", "node1"),
        ("node[03-05,9]", "node03"),
        ("a[1,3]-ib,b2", "a1-ib"),
        ("x1,x2", "x1"),
    ],
)
def test_the_first_node_of_a_list(nodes: str, first: str) -> None:
    assert first_node(nodes) == first
