"""`python -m fastdual` and the console script: run the command line, or say what to install."""

import sys


def main() -> None:
    """Run the command line."""
    try:
        from fastdual.cli import cli
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.exit(
            'fastdual: the command line needs the extra `video`: pip install "fastdual[video]"'
        )
    cli()


if __name__ == "__main__":
    main()
