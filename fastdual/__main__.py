"""`python -m fastdual` and the console script: run the command line, or say what to install."""

import os
import sys

import fastdual


def main() -> None:
    """Run the command line."""
    # The last installed wins: then the package is the other one, with our modules beside its own.
    if "_warn_of_namesake" not in vars(fastdual):
        sys.exit(
            "fastdual: another distribution called fastdual has replaced or removed files of ours: "
            "run pip uninstall fastdual, then install ours again: "
            'pip install ".[video]" in its checkout'
        )
    # When a connection breaks, torch's C++ logs its stack; our one line says what happened. Of a
    # process that trains with others, its errors stay: NCCL's watchdog says no more than that.
    if not os.environ.get("FASTDUAL_TRACEBACK"):
        trains = not {"RANK", "SLURM_PROCID"}.isdisjoint(os.environ)
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR" if trains else "FATAL")
    try:
        from fastdual.cli import cli
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.exit(
            "fastdual: the command line needs the extra `video`: "
            'run pip install ".[video]" in fastdual\'s checkout'
        )
    try:
        cli()
    except SystemExit as end:
        _leave(end)


def _leave(end: SystemExit) -> None:
    """End as click asks for; a process that has met others ends without Python's own way out."""
    ending = sys.modules.get("fastdual.distributed.ending")
    if ending is not None and isinstance(end.code, int | None):
        ending.end_if_met(end.code or 0)
    raise end


if __name__ == "__main__":
    main()
