"""`python -m fastdual` and the console script: run the command line, or say what to install."""

import os
import sys


def main() -> None:
    """Run the command line."""
    # When a connection breaks, torch's C++ warns with its stack; our one line says what happened.
    if not os.environ.get("FASTDUAL_TRACEBACK"):
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        from fastdual.cli import cli
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.exit(
            "fastdual: the command line needs the extra `video`: "
            'run pip install ".[video]" in fastdual\'s checkout'
        )
    cli()


if __name__ == "__main__":
    main()
