"""The place of a process, from the variables of torchrun and srun."""

import pytest

from fastdual.distributed.world import (
    Machines,
    World,
    first_node,
    read_machines,
    read_world,
    tasks_per_node,
)
from fastdual.errors import InputError


def test_the_place_that_torchrun_and_srun_give() -> None:
    assert read_world({}) == World()
    torchrun = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    assert read_world(torchrun) == World(5, 8, 1, 4, "torchrun")
    srun = {
        "SLURM_PROCID": "5",
        "SLURM_STEP_NUM_TASKS": "8",
        "SLURM_LOCALID": "1",
        "SLURM_NODEID": "1",
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
        ({"RANK": "0"}, "WORLD_SIZE = ''"),
        (
            {
                "SLURM_STEP_NUM_TASKS": "2",
                "SLURM_STEP_TASKS_PER_NODE": "2",
                "SLURM_NODEID": "9" * 5000,
            },
            "SLURM_NODEID = '999",
        ),
        ({"RANK": "0", "WORLD_SIZE": "9" * 5000}, "WORLD_SIZE = '999"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "3"}, "local rank 3 of 2"),
        ({"RANK": "0", "WORLD_SIZE": "8", "PET_NPROC_PER_NODE": "4"}, "add --gpus N"),
        ({"PET_NNODES": "2"}, "PET_NNODES = 2: .* add --gpus N"),
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
        ("rack[1-2]n[03-05,9]x,other", "rack1n03x"),
        ("a[1-[2-3],7]b[4]", "a1b4"),
        ("tux[0-6:2]", "tux0"),
        ("cn-[001-128]-ib.cluster.local", "cn-001-ib.cluster.local"),
        (" n[7],m[1-2] ", "n7"),
    ],
)
def test_the_first_node_of_a_list(nodes: str, first: str) -> None:
    assert first_node(nodes) == first


@pytest.mark.parametrize("nodes", ["", ",x", "x[1-2", "x1-2]", "x[]", "[,]", "a b", "x[[1]"])
def test_lists_that_name_no_node_are_refused(nodes: str) -> None:
    with pytest.raises(InputError, match="does not name a node"):
        first_node(nodes)


def test_counts_of_tasks_in_every_form_of_slurm() -> None:
    assert tasks_per_node("4") == [4]
    assert tasks_per_node("2,1") == [2, 1]
    assert tasks_per_node("2(x3),1") == [2, 2, 2, 1]
    assert tasks_per_node("1, 2(x2)") == [1, 2, 2]
    for text in ("", "x", "2(x", "(x2)", "2(x3)1", "-1", "9" * 5000):
        with pytest.raises(InputError, match="SLURM_STEP_TASKS_PER_NODE"):
            tasks_per_node(text)


def test_the_number_of_processes_is_that_of_the_own_node() -> None:
    """The first node of `2,1` has two: the second must not take itself for one of two."""
    srun = {
        "SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "3", "SLURM_LOCALID": "0", "SLURM_NODEID": "1",
        "SLURM_STEP_TASKS_PER_NODE": "2,1", "SLURM_STEP_NODELIST": "n[1,2]", "SLURM_JOB_ID": "7",
    }  # fmt: skip
    assert read_world(srun) == World(2, 3, 0, 1, "slurm", ("n1", 20_007))
    with pytest.raises(InputError, match="SLURM_NODEID = '2'"):
        read_world(srun | {"SLURM_NODEID": "2"})


def test_the_machines_that_a_cluster_names() -> None:
    bare = {"RANK": "1", "WORLD_SIZE": "3", "MASTER_ADDR": "job-0", "MASTER_PORT": "23456"}
    assert read_world(bare) == World(1, 3, 0, 1, "torchrun")
    assert read_machines(bare) == Machines(3, 1, "job-0:23456")
    kubeflow = bare | {"WORLD_SIZE": "24", "PET_NPROC_PER_NODE": "8", "PET_NNODES": "3"}
    kubeflow |= {"PET_NODE_RANK": "2", "PET_MASTER_ADDR": "job-0", "PET_MASTER_PORT": "29400"}
    assert read_machines(kubeflow) == Machines(3, 2, "job-0:29400")
    elastic = {"PET_NNODES": "2:4", "PET_RDZV_ENDPOINT": "rdzv:29400"}
    assert read_machines(elastic) == Machines(2, 0, "rdzv:29400")
    assert read_machines(bare | {"LOCAL_RANK": "0"}) is None
    assert read_machines({}) is None
    assert read_machines({"PET_NNODES": "1", "PET_NPROC_PER_NODE": "auto"}) is None
