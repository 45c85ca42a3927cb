"""What each process gets of its machine, on machines that are described, not there."""

import os
from pathlib import Path
from unittest import mock

import pytest
import torch

from fastdual.distributed import launch, share
from fastdual.distributed.world import World


def have_cpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let this process have so many CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(count)))


@pytest.fixture
def num_cpus(monkeypatch: pytest.MonkeyPatch) -> int:
    have_cpus(monkeypatch, 24)
    return 24


def test_launched_processes_share_threads_compilers_and_workers(num_cpus: int) -> None:
    environment: dict[str, str] = {}
    share.share_out(8, environment)
    assert environment["OMP_NUM_THREADS"] == environment["TORCHINDUCTOR_COMPILE_THREADS"] == "3"
    assert share.sharers_of(World(size=8, local_size=8), environment) == 8


def test_processes_that_are_bound_share_a_part_of_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environment: dict[str, str] = {}
    have_cpus(monkeypatch, 112)
    share.share_out(8, environment)
    have_cpus(monkeypatch, 56)  # one NUMA node of two
    assert share.sharers_of(World(size=8, local_size=8), environment) == 4
    assert (
        share.sharers_of(World(size=8, local_size=8), {}) == 8
    )  # of torchrun, which binds nothing


def test_what_a_user_has_set_stays_and_more_processes_than_cpus_have_one_each(
    num_cpus: int,
) -> None:
    environment = {"OMP_NUM_THREADS": "5", "TORCHINDUCTOR_COMPILE_THREADS": "7"}
    share.share_out(100, environment)
    assert environment["OMP_NUM_THREADS"] == "5"
    assert environment["TORCHINDUCTOR_COMPILE_THREADS"] == "7"
    share.share_out(100, alone := {})
    assert alone["OMP_NUM_THREADS"] == "1"


def test_one_process_starts_no_more_compilers_than_torch_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environment: dict[str, str] = {}
    have_cpus(monkeypatch, 500)
    share.share_out(1, environment)
    assert environment["TORCHINDUCTOR_COMPILE_THREADS"] == "32"


def test_processes_of_torchrun_and_srun_share_too(num_cpus: int) -> None:
    environment: dict[str, str] = {}
    share.limit_compilers(World(size=16, local_size=8, launcher="slurm"), environment)
    assert environment == {"TORCHINDUCTOR_COMPILE_THREADS": "3"}
    alone: dict[str, str] = {}
    share.limit_compilers(World(), alone)
    assert alone == {}


@pytest.fixture
def two_numa_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with eight GPUs, two nodes of memory, and numactl."""
    for name in ("node0", "node1", "online"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(share, "_NUMA_NODES", tmp_path)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(share.shutil, "which", lambda name: f"/usr/bin/{name}")
    return tmp_path


def test_processes_are_bound_where_there_is_something_to_bind_to(
    two_numa_nodes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = share.numa_options(8)
    assert options.affinity_mode.value == "node"
    assert options.should_fall_back_if_binding_fails
    assert share.numa_options(9) is None  # some would have no GPU
    monkeypatch.setattr(share.shutil, "which", lambda name: None)
    assert share.numa_options(8) is None


def test_one_node_binds_nothing(two_numa_nodes: Path) -> None:
    (two_numa_nodes / "node1").rmdir()
    assert share.numa_options(8) is None


@pytest.mark.parametrize("bind", [True, False])
def test_the_launcher_hands_binding_and_shares_to_torch(
    two_numa_nodes: Path, monkeypatch: pytest.MonkeyPatch, bind: bool
) -> None:
    given = []

    def elastic_launch(config: object, entrypoint: str) -> object:
        given.append((config, os.environ["TORCHINDUCTOR_COMPILE_THREADS"]))
        return lambda *arguments: None

    have_cpus(monkeypatch, 24)
    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", elastic_launch)
    with mock.patch.dict(os.environ):  # the launcher writes what its processes are to read
        os.environ.pop("TORCHINDUCTOR_COMPILE_THREADS", None)
        assert launch.launch([], launch.LaunchPlan(processes=8, bind_to_numa_node=bind)) == 0
    ((config, compilers),) = given
    assert compilers == "3"
    assert (config.numa_options is not None) == bind
