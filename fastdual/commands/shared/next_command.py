"""The last line of a command: the command that most people type next, which works as it stands."""

import shlex
from pathlib import Path

from fastdual.console import say


def typed(*words: str | Path, **options: str | Path | None) -> str:
    """Return a command line that can be pasted, with those options that have a value."""
    given = [(f"--{name}", value) for name, value in options.items() if value is not None]
    return shlex.join(
        ["fastdual", *map(str, words), *(str(part) for pair in given for part in pair)]
    )


def show_next(*words: str | Path, **options: str | Path | None) -> None:
    """Show the next command on stderr: stdout holds results."""
    say(f"next        {typed(*words, **options)}", err=True)


def videos_of(run: Path) -> Path | None:
    """Return the index of the videos that a run was started on, if it has kept one."""
    index = run / "index.h5"
    return index if index.is_file() else None


def show_pretraining(data: Path, root: Path | None = None) -> None:
    """Show how to pretrain on videos, in a run folder that is free."""
    runs = (Path("runs", data.stem + (f"-{n}" if n > 1 else "")) for n in range(1, 1000))
    free = next((run for run in runs if not run.exists()), Path("runs", "new"))
    show_next("pretrain", data, "--run", free, root=root)
