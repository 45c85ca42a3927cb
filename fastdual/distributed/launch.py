"""Starting a command in several processes with torch elastic, and reporting what they end with.

The processes join the world that elastic's variables describe, as under torchrun. A process that
fails writes its error to a file in the launcher's folder, so that one line can say what went wrong
first. All processes end when the launcher ends.
"""

import json
import logging
import os
import re
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from fastdual.distributed.signals import STOP_SIGNALS, ignores_hangup
from fastdual.distributed.team import LostProcessError, wait_for_listener
from fastdual.errors import FailureError, InputError
from fastdual.loaders.batch.decoder import available_cpus
from fastdual.loaders.files import write
from fastdual.loaders.pool.parent import end_with_parent

_FOLDER = "FASTDUAL_LAUNCH_FOLDER"
_LAUNCHER = "FASTDUAL_LAUNCHER_PID"
_MISTAKE = signal.SIGUSR1  # from a process to its launcher
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

    Raises:
        InputError: The values contradict each other.
    """

    processes: int
    nodes: int = 1
    node_rank: int = 0
    endpoint: str | None = None
    max_restarts: int = 0
    timeout_seconds: int = 600

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
            named = _HOST.fullmatch(host) and port.isdecimal() and 0 < int(port) < 65536
            if not named:
                raise InputError(f"--rdzv-endpoint {self.endpoint!r}: must be HOST:PORT")


def launch(arguments: Sequence[str], plan: LaunchPlan) -> int:
    """Run `python -m fastdual ARGUMENTS` in every process of a plan; return the exit code.

    Args:
        arguments: The command and its options.
        plan: How many processes, and where.

    Returns:
        0: all processes completed; 128 + n: signal n stopped them, with a checkpoint.

    Raises:
        InputError: A process refused its input, or the port of the meeting point is taken.
        FailureError: A process failed or died, or a machine did not come in time.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError

    if plan.endpoint is not None and plan.node_rank == 0:
        _check_port(plan.endpoint)
    with tempfile.TemporaryDirectory(prefix="fastdual-launch-") as folder:
        _prepare_environment(Path(folder), plan)
        try:
            with _ended_by_mistakes(Path(folder)):
                _run_elastic(arguments, plan, Path(folder))
        except SignalException as stop:
            return 128 + int(stop.sigval)
        except ChildFailedError as error:
            raise root_cause(error.failures, Path(folder)) from None
        except (RendezvousError, TimeoutError) as error:
            raise _why_apart(error, plan, Path(folder)) from None
        stopped = Path(folder) / "signal"
        return 128 + int(stopped.read_text()) if stopped.exists() else 0


def _run_elastic(arguments: Sequence[str], plan: LaunchPlan, folder: Path) -> None:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    timeout = plan.timeout_seconds
    rendezvous: dict[str, Any] = {"timeout": timeout, "join_timeout": timeout}
    rendezvous["read_timeout"] = min(timeout, 60)
    if plan.nodes > 1:
        rendezvous["is_host"] = str(plan.node_rank == 0)
    # Elastic would handle SIGHUP even where nohup made the process ignore it.
    signals = ["TERM", "INT", "QUIT", *([] if ignores_hangup() else ["HUP"])]
    config = LaunchConfig(
        min_nodes=plan.nodes,
        max_nodes=plan.nodes,
        nproc_per_node=plan.processes,
        run_id="fastdual",
        rdzv_backend="c10d",
        rdzv_endpoint=plan.endpoint or "localhost:0",
        rdzv_configs=rendezvous,
        max_restarts=plan.max_restarts,
        logs_specs=DefaultLogsSpecs(log_dir=str(folder / "elastic")),
        local_addr="127.0.0.1" if plan.nodes == 1 else None,
        signals_to_handle=",".join(f"SIG{name}" for name in signals),
    )
    _silence_elastic()
    if plan.endpoint is not None and plan.node_rank > 0:
        host, _, port = plan.endpoint.rpartition(":")
        wait_for_listener(host, int(port), seconds=timeout)
    elastic_launch(config, sys.executable)("-m", "fastdual", *arguments)


def _silence_elastic() -> None:
    """Keep elastic from logging every start and end: `launch` says what users need to know."""
    for name in list(logging.root.manager.loggerDict):  # each of its modules has set its own level
        if name.startswith(("torch.distributed.elastic", "torch.distributed.launcher")):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _prepare_environment(folder: Path, plan: LaunchPlan) -> None:
    os.environ[_FOLDER] = str(folder)
    os.environ[_LAUNCHER] = str(os.getpid())
    # Otherwise elastic keeps one store over restarts, with addresses of processes that died.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    # Each process would start as many threads as there are cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cpus() // plan.processes)))


def _check_port(endpoint: str) -> None:
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


@contextmanager
def _ended_by_mistakes(folder: Path) -> Iterator[None]:
    """End all processes as soon as one of them reports a user's mistake.

    Elastic restarts whatever failed. Only an error raised in its own process prevents that, and
    closes its meeting point to the other machines as well.
    """

    def end(number: int, frame: FrameType | None) -> None:
        errors = _reported_errors(folder)
        if errors:  # without one, the signal came from elsewhere
            signal.signal(_MISTAKE, signal.SIG_IGN)  # the first ends the job, others may follow
            raise errors[0]

    before = signal.signal(_MISTAKE, end)
    try:
        yield
    finally:
        signal.signal(_MISTAKE, before)


def _reported_errors(folder: Path) -> list[InputError | FailureError]:
    """Return the errors that processes left in a folder: causes first, consequences after them."""
    records = [json.loads(path.read_text()) for path in folder.glob("error-*.json")]
    records.sort(key=lambda record: (record["lost"], record["time"]))
    kinds: dict[tuple[bool, int], type[InputError | FailureError]]
    kinds = {(True, 1): LostProcessError, (False, 1): FailureError, (False, 2): InputError}
    return [kinds[record["lost"], record["code"]](record["message"]) for record in records]


def root_cause(failures: Mapping[int, Any], folder: Path) -> Exception:
    """Return the error to show when processes failed: the first cause, not its consequences.

    Args:
        failures: Elastic's report on each process that failed, by rank.
        folder: Where the processes left their errors.
    """
    errors = _reported_errors(folder)
    if errors and not isinstance(errors[0], LostProcessError):
        return errors[0]
    for rank, failure in sorted(failures.items()):
        if failure.exitcode < 0 and -failure.exitcode not in STOP_SIGNALS:
            name = signal.Signals(-failure.exitcode).name
            why = " (the kernel does so when memory runs out)" if name == "SIGKILL" else ""
            return FailureError(
                f"rank {rank} was ended by {name}{why}; continue from the last checkpoint with "
                "--resume, or start with --max-restarts"
            )
    if errors:
        return errors[0]
    rank, failure = min(failures.items())
    return FailureError(f"rank {rank} ended with exit code {failure.exitcode}; see above for why")


def _why_apart(error: Exception, plan: LaunchPlan, folder: Path) -> Exception:
    """Return the error to show when machines do not meet, at the start or before a restart."""
    from torch.distributed.elastic.rendezvous import RendezvousClosedError

    errors = _reported_errors(folder)
    if errors:  # the machines had met before; this separated them
        return errors[0]
    if isinstance(error, RendezvousClosedError):
        return FailureError(
            f"--nnodes {plan.nodes}: another machine has ended the job; its own output says why"
        )
    return FailureError(
        f"--nnodes {plan.nodes}: the machines did not meet at {plan.endpoint} within "
        f"{plan.timeout_seconds} s ({_first_line(error)}); start the command on each, with its own "
        "--node-rank"
    )


def _first_line(error: BaseException) -> str:
    """Return the text of the first of several errors that were raised from one another."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


# ---- in a process that was launched


def is_launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether `launch` started this process."""
    return _FOLDER in environment and "TORCHELASTIC_RUN_ID" in environment


def is_restart(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether elastic restarted this process after one died."""
    return environment.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def follow_launcher() -> None:
    """Get a SIGTERM when the launcher dies, so that the run stops with a checkpoint."""
    end_with_parent(int(os.environ[_LAUNCHER]), signal.SIGTERM)
    _record_file().unlink(missing_ok=True)  # of the process that had this rank before a restart


def report_error(error: InputError | FailureError) -> int:
    """Report an error to the launcher, which shows the first of all; return the exit code.

    Raises:
        FailureError: The report cannot be written.
    """
    code = 2 if isinstance(error, InputError) else 1
    record = {
        "message": str(error),
        "code": code,
        "lost": isinstance(error, LostProcessError),
        "time": time.time(),
    }
    write(_record_file(), json.dumps(record), "the error")
    if code == 2:
        with suppress(ProcessLookupError):  # it died meanwhile
            os.kill(int(os.environ[_LAUNCHER]), _MISTAKE)
    return code


def report_signal(number: int) -> None:
    """Tell the launcher that a signal stopped the run, which is no failure to restart after."""
    write(Path(os.environ[_FOLDER]) / "signal", str(number), "the signal")


def _record_file() -> Path:
    return Path(os.environ[_FOLDER]) / f"error-{os.environ['RANK']}.json"
