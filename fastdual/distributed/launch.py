"""Starting a command in several processes with torch elastic, and reporting what they end with.

The processes join the world that elastic's variables describe, as under torchrun. A process that
fails writes its error into the launcher's folder (`launched`), so that one line can say what went
wrong first. All processes end when the launcher ends.
"""

import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from fastdual.console import say
from fastdual.distributed.causes import root_cause, why_apart, why_stopped
from fastdual.distributed.launched import (
    FOLDER,
    LAUNCHER,
    MISTAKE,
    reported_errors,
    reported_signal,
)
from fastdual.distributed.meeting import wait_for_store
from fastdual.distributed.plan import LaunchPlan, check_port
from fastdual.distributed.share import numa_options, share_out
from fastdual.distributed.signals import stop_signals
from fastdual.distributed.watch import Watch
from fastdual.errors import InputError

_PREFIX = "fastdual-launch-"


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
        check_port(plan.endpoint)
    _remove_folders_of_the_dead()
    with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-") as name:
        folder = Path(name)
        _prepare_environment(folder, plan)
        watch = Watch(
            folder,
            timeout_seconds=plan.timeout_seconds,
            max_restarts=plan.max_restarts,
            give_up=lambda: _end_at_once(plan, folder, watch.stopped),
        )
        try:
            with _ended_by_mistakes(folder), watch:
                _run_elastic(arguments, plan, folder)
        except SignalException as stop:
            return 128 + int(stop.sigval)
        except ChildFailedError as error:
            raise root_cause(error.failures, folder, watch.stopped) from None
        except (RendezvousError, TimeoutError) as error:
            raise why_apart(error, plan, folder) from None
        number = reported_signal(folder)
        return 0 if number is None else 128 + number


def _run_elastic(arguments: Sequence[str], plan: LaunchPlan, folder: Path) -> None:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    timeout = plan.timeout_seconds
    rendezvous: dict[str, Any] = {"timeout": timeout, "join_timeout": timeout}
    rendezvous["read_timeout"] = min(timeout, 60)
    if plan.nodes > 1:
        rendezvous["is_host"] = str(plan.node_rank == 0)
    # Elastic would handle SIGHUP even where nohup made the process ignore it.
    signals = ["QUIT", *(number.name[3:] for number in stop_signals())]
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
        numa_options=numa_options(plan.processes) if plan.bind_to_numa_node else None,
    )
    _silence_elastic()
    if plan.endpoint is not None and plan.node_rank > 0:
        host, _, port = plan.endpoint.rpartition(":")
        wait_for_store(host, int(port), seconds=timeout)
    elastic_launch(config, sys.executable)("-m", "fastdual", *arguments)


def _silence_elastic() -> None:
    """Keep elastic from logging every start and end: `launch` says what users need to know."""
    talkers = ("torch.distributed.elastic", "torch.distributed.launcher", "torch.numa")
    for name in list(logging.root.manager.loggerDict):  # each of its modules has set its own level
        if name.startswith(talkers):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _prepare_environment(folder: Path, plan: LaunchPlan) -> None:
    os.environ[FOLDER] = str(folder)
    os.environ[LAUNCHER] = str(os.getpid())
    # Otherwise elastic keeps one store over restarts, with addresses of processes that died.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    # A process that trains logs NCCL's errors, which `fastdual.__main__` keeps from all others.
    if os.environ.get("TORCH_CPP_LOG_LEVEL") == "FATAL":
        os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"
    share_out(plan.processes)


@contextmanager
def _ended_by_mistakes(folder: Path) -> Iterator[None]:
    """End all processes as soon as one of them reports a user's mistake.

    Elastic restarts whatever failed. Only an error raised in its own process prevents that, and
    closes its meeting point to the other machines as well.
    """

    def end(number: int, frame: FrameType | None) -> None:
        errors = reported_errors(folder)
        if errors:  # without one, the signal came from elsewhere
            signal.signal(MISTAKE, signal.SIG_IGN)  # the first ends the job, others may follow
            raise errors[0]

    before = signal.signal(MISTAKE, end)
    try:
        yield
    finally:
        signal.signal(MISTAKE, before)


def _end_at_once(plan: LaunchPlan, folder: Path, stopped: Collection[int]) -> None:
    """End the launcher from another thread, as its own waits for a machine that is silent."""
    errors, number = reported_errors(folder), reported_signal(folder)
    error: Exception | None = errors[0] if errors else None
    if stopped and not errors:
        error = why_stopped(stopped)
    code = 0 if number is None else 128 + number
    if error is not None:
        code = 2 if isinstance(error, InputError) else 1
        line = " ".join(str(error).split())
        say(f"Error: {line}", err=True)
    elif plan.nodes > 1:
        say(
            f"warning: the machine that keeps the meeting point {plan.endpoint} does not answer; "
            "the processes of this one have ended by themselves",
            err=True,
        )
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(code)


def _remove_folders_of_the_dead() -> None:
    """Remove the folders of launchers that were killed before they could."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}[0-9]*-*"):
        process = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if process.isdecimal() and not Path(f"/proc/{process}").exists():
            shutil.rmtree(folder, ignore_errors=True)  # those of others cannot be removed
