"""`fastdual table`: results of several runs side by side."""

from pathlib import Path

import click

from fastdual.commands.shared.options import InputPath, OutputFile
from fastdual.console import say, say_text

_PATH = InputPath()


@click.command()
@click.argument("paths", type=_PATH, nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    type=OutputFile("the table"),
    help="Write the table here instead of printing it.",
)
@click.option(
    "--mean", "with_mean", is_flag=True, help="Add the mean over the splits of one method."
)
def command(paths: tuple[Path, ...], output: Path | None, with_mean: bool) -> None:
    """Make Markdown tables of results, one for each kind of number. PATHS: run folders (all
    their results), folders that hold some, result files.

    --mean takes results of one method, each on another split: runs of other weights, settings or
    data are refused, and so is a split that comes twice.

    \b
      fastdual table runs/a runs/b baseline.json -o table.md
      fastdual table --mean runs/ft1 runs/ft2 runs/ft3
    """
    from fastdual.evaluate.average import check_one_method
    from fastdual.evaluate.results import find_results, has_results
    from fastdual.loaders.files import write
    from fastdual.report.table import markdown_table
    from fastdual.run.summary import runs_under

    folders = [run for path in paths for run in (runs_under(path) if path.is_dir() else [path])]
    have = [path for path in folders if not path.is_dir() or has_results(path)]
    for path in folders if have else ():
        if path not in have:
            say(f"note: {path} has no result yet and is left out", err=True)
    found = find_results(have or folders)
    if with_mean:
        check_one_method(found)
    table = markdown_table(found, with_mean=with_mean)
    if output is None:
        say_text(table)
    else:
        write(output, f"{table}\n", "the table")
        say(f"{output}: {len(table.splitlines()) - 2} rows")
