"""What each process of a run gets of its machine: CPUs to count on, and those near its GPU."""

import os
import shutil
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

from fastdual.distributed.world import World
from fastdual.errors import is_number
from fastdual.loaders.pool.cpus import available_cpus

# Set for launched processes: bound to some CPUs, they cannot see how many there are for all.
_CPUS = "FASTDUAL_CPUS_PER_PROCESS"
_COMPILERS = "TORCHINDUCTOR_COMPILE_THREADS"
_MOST_COMPILERS = 32  # torch's own limit
_NUMA_NODES = Path("/sys/devices/system/node")


def share_out(processes: int, environment: MutableMapping[str, str] = os.environ) -> None:
    """Divide the CPUs among the processes that will be launched; what is set already stays.

    Each would start as many threads of torch, and as many compilers, as there are CPUs.
    """
    share = available_cpus(processes)
    environment[_CPUS] = str(share)
    environment.setdefault("OMP_NUM_THREADS", str(share))
    environment.setdefault(_COMPILERS, str(min(share, _MOST_COMPILERS)))


def sharers_of(world: World, environment: Mapping[str, str] = os.environ) -> int:
    """Return how many processes share the CPUs that this one may use.

    They are those of the machine, or of a part of it that the launcher has bound them to.
    """
    told = environment.get(_CPUS, "")
    is_told = is_number(told) and int(told) > 0
    return max(1, round(available_cpus() / int(told))) if is_told else world.local_size


def limit_compilers(world: World, environment: MutableMapping[str, str] = os.environ) -> None:
    """Start only this process's share of compilers, also where torchrun or srun started it."""
    if world.local_size > 1:
        share = available_cpus(world.local_size)
        environment.setdefault(_COMPILERS, str(min(share, _MOST_COMPILERS)))


def numa_options(processes: int) -> Any:
    """Return how torch's launcher binds each process to the CPUs near its GPU.

    None where there is nothing to bind, or nothing to bind with: one node of memory, fewer GPUs
    than processes, no numactl, or a torch that cannot.
    """
    import torch

    try:
        from torch.numa.binding import AffinityMode, NumaOptions
    except ImportError:
        return None
    nodes = len(list(_NUMA_NODES.glob("node[0-9]*")))
    if nodes < 2 or torch.cuda.device_count() < processes or shutil.which("numactl") is None:
        return None
    return NumaOptions(AffinityMode.NODE, should_fall_back_if_binding_fails=True)
