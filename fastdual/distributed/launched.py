"""What a launched process tells its launcher, through files in the launcher's folder."""

import json
import os
import shutil
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastdual.distributed.meeting import LostProcessError
from fastdual.errors import FailureError, InputError
from fastdual.loaders.files import parse_line, write
from fastdual.loaders.pool.parent import end_with_parent

FOLDER = "FASTDUAL_LAUNCH_FOLDER"
LAUNCHER = "FASTDUAL_LAUNCHER_PID"
MISTAKE = signal.SIGURG  # from a process to its launcher; harmless to a process that ignores it
_SIGNAL_FILE = "signal"


def is_launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether `launch` started this process."""
    return FOLDER in environment and "TORCHELASTIC_RUN_ID" in environment


def is_restart(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether elastic restarted this process after one died."""
    return environment.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def follow_launcher() -> None:
    """Get a SIGTERM when the launcher dies, so that the run stops with a checkpoint."""
    end_with_parent(int(os.environ[LAUNCHER]), signal.SIGTERM)
    _file("error").unlink(missing_ok=True)  # of the process that had this rank before a restart
    write(_file("process"), json.dumps({"pid": os.getpid()}), "the process number")


def leave_launcher() -> None:
    """Remove the launcher's folder if the launcher is gone: nobody else would."""
    if os.getppid() != int(os.environ[LAUNCHER]):
        shutil.rmtree(os.environ[FOLDER], ignore_errors=True)


def report_error(error: InputError | FailureError) -> int:
    """Report an error to the launcher, which shows the first of all; return the exit code.

    Raises:
        FailureError: The report cannot be written.
    """
    code = 2 if isinstance(error, InputError) else 1
    record = {"message": str(error), "code": code, "time": time.time()}
    if isinstance(error, LostProcessError):
        record |= {"lost": list(error.ranks), "silent": error.silent}
    write(_file("error"), json.dumps(record), "the error")
    if code == 2:
        with suppress(ProcessLookupError):  # it died meanwhile
            os.kill(int(os.environ[LAUNCHER]), MISTAKE)
    return code


def report_signal(number: int) -> None:
    """Tell the launcher that a signal stopped the run, which is no failure to restart after."""
    write(Path(os.environ[FOLDER]) / _SIGNAL_FILE, str(number), "the signal")


def _file(what: str) -> Path:
    return Path(os.environ[FOLDER]) / f"{what}-{os.environ['RANK']}.json"


# ---- in the launcher


def reported_errors(folder: Path) -> list[InputError | FailureError]:
    """Return the errors that processes left in a folder: causes first, consequences after them."""
    records = [record for path in folder.glob("error-*.json") if (record := _read(path))]
    records.sort(key=lambda record: ("lost" in record, record["time"]))
    errors: list[InputError | FailureError] = []
    for record in records:
        if "lost" in record:
            errors.append(
                LostProcessError(record["message"], record["lost"], silent=record["silent"])
            )
        else:
            kind = InputError if record["code"] == 2 else FailureError
            errors.append(kind(record["message"]))
    return errors


def reported_signal(folder: Path) -> int | None:
    """Return the number of the signal that stopped the run, if one did."""
    path = folder / _SIGNAL_FILE
    return int(path.read_text()) if path.exists() else None


def known_processes(folder: Path) -> dict[int, int]:
    """Return the process numbers of this machine's ranks, by rank, once they have started."""
    found = {}
    for path in folder.glob("process-*.json"):
        record = _read(path)
        if record:
            found[int(path.stem.partition("-")[2])] = record["pid"]
    return found


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return parse_line(path.read_bytes())
    except FileNotFoundError:  # removed by a process that starts again
        return None
