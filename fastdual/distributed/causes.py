"""The one error to show when a launch failed: its first cause, not what followed from that."""

import signal
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from fastdual.distributed.launched import known_processes, reported_errors
from fastdual.distributed.meeting import LostProcessError
from fastdual.distributed.plan import LaunchPlan
from fastdual.distributed.signals import STOP_SIGNALS
from fastdual.errors import FailureError


def root_cause(
    failures: Mapping[int, Any], folder: Path, stopped: Collection[int] = ()
) -> Exception:
    """Return the error to show when processes failed: the first cause, not its consequences.

    Args:
        failures: Elastic's report on each process that failed, by rank.
        folder: Where the processes left their errors.
        stopped: Ranks that were found stopped and were killed for it.
    """
    errors = reported_errors(folder)
    if errors and not isinstance(errors[0], LostProcessError):
        return errors[0]
    if stopped:
        return why_stopped(stopped)
    # Whom the others gave up because they heard nothing was killed after that, by ourselves.
    silent = {
        rank
        for error in errors
        if isinstance(error, LostProcessError) and error.silent
        for rank in error.ranks
    }
    for rank, failure in sorted(failures.items()):
        if failure.exitcode < 0 and -failure.exitcode not in STOP_SIGNALS and rank not in silent:
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


def why_stopped(ranks: Collection[int]) -> FailureError:
    who = f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, sorted(ranks)))}"
    return FailureError(
        f"{who} had been stopped (by SIGSTOP or a debugger, or a worker had) and did not answer "
        "in time; continue from the last checkpoint with --resume"
    )


def why_apart(error: Exception, plan: LaunchPlan, folder: Path) -> Exception:
    """Return the error to show when machines do not meet, at the start or before a restart."""
    from torch.distributed.elastic.rendezvous import RendezvousClosedError

    errors = reported_errors(folder)
    if errors:  # the machines had met before; this separated them
        return errors[0]
    if known_processes(folder) and not isinstance(error, RendezvousClosedError):
        return FailureError(
            f"--nnodes {plan.nodes}: the machine that keeps the meeting point {plan.endpoint} is "
            f"gone ({_first_line(error)}); its own output says why; continue from the last "
            "checkpoint with --resume"
        )
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
