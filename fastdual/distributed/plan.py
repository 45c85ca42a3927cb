"""What a launch is asked to do: processes, machines, and the place where those meet."""

import re
import socket
from dataclasses import dataclass

from fastdual.errors import InputError, is_number, shown

_HOST = re.compile(r"[\w.:-]+")  # a name or an address


@dataclass(frozen=True, kw_only=True)
class LaunchPlan:
    """How many processes on how many machines, and where the machines meet.

    Attributes:
        processes: Processes on this machine.
        nodes: Machines.
        node_rank: Number of this machine; machine 0 keeps the meeting point.
        endpoint: HOST:PORT of the meeting point; None on a single machine.
        max_restarts: How often all processes are restarted after one died or failed. A user's
            mistake ends them at once: it would only happen again.
        timeout_seconds: How long the machines wait for each other.
        bind_to_numa_node: Bind each process to the CPUs near its GPU, where that can be done.

    Raises:
        InputError: The values contradict each other.
    """

    processes: int
    nodes: int = 1
    node_rank: int = 0
    endpoint: str | None = None
    max_restarts: int = 0
    timeout_seconds: int = 600
    bind_to_numa_node: bool = False

    def __post_init__(self) -> None:
        if self.processes < 1 or self.nodes < 1 or self.max_restarts < 0:
            raise InputError(
                f"--gpus {self.processes}, --nnodes {self.nodes} and --max-restarts "
                f"{self.max_restarts}: the first two must be at least 1, the last 0 or more"
            )
        if not 0 <= self.node_rank < self.nodes:
            raise InputError(f"--node-rank {self.node_rank}: must lie in 0..{self.nodes - 1}")
        if self.nodes > 1 and self.endpoint is None:
            raise InputError(
                f"--nnodes {self.nodes} needs --rdzv-endpoint HOST:PORT of machine 0, the same on "
                "every machine"
            )
        if self.endpoint is not None:
            host, _, port = self.endpoint.rpartition(":")
            named = _HOST.fullmatch(host) and is_number(port) and 0 < int(port) < 65536
            if not named:
                raise InputError(f"--rdzv-endpoint {shown(self.endpoint)}: must be HOST:PORT")


def check_port(endpoint: str) -> None:
    """Raise an InputError if something else listens where the machines are to meet."""
    port = int(endpoint.rpartition(":")[2])
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", port))
    except OSError as error:
        raise InputError(
            f"--rdzv-endpoint {endpoint}: port {port} cannot be used on this machine "
            f"({error.strerror}); choose another one on all machines"
        ) from error
