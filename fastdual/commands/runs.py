"""`fastdual runs`: what runs there are and how far each has come."""

import json
from pathlib import Path

import click

from fastdual.commands.shared.options import InputPath
from fastdual.console import say_text

_PATH = InputPath()


@click.command("runs")
@click.argument("folder", type=_PATH, default=Path("."))
@click.option("--json", "as_json", is_flag=True, help="Print a list with every metric.")
def command(folder: Path, as_json: bool) -> None:
    """List the runs under FOLDER (by default here) and their last metrics.

    A run whose state is `open` is under way or was killed: see when it was last heard of. Why one
    has `failed` is the last line of its log.jsonl.

    \b
      fastdual runs
      fastdual runs experiments --json
    """
    from fastdual.run.summary import describe_runs, find_runs

    runs = find_runs(folder)
    if as_json:
        say_text(json.dumps([run.to_dict() for run in runs], indent=2))
    else:
        say_text(describe_runs(runs))
