"""`fastdual table`: results of several runs side by side."""

from pathlib import Path

import click

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("paths", type=_PATH, nargs=-1, required=True)
@click.option("-o", "--output", type=_PATH, help="Write the table here instead of printing it.")
@click.option(
    "--mean", "with_mean", is_flag=True, help="Add the mean over the splits of one method."
)
def command(paths: tuple[Path, ...], output: Path | None, with_mean: bool) -> None:
    """Make Markdown tables of results, one for each kind of number. PATHS: run folders (all
    their results), result files.

    --mean takes results of one method, each on another split: runs of other weights, settings or
    data are refused, and so is a split that comes twice.

    \b
      fastdual table runs/a runs/b baseline.json -o table.md
      fastdual table --mean runs/ft1 runs/ft2 runs/ft3
    """
    from fastdual.evaluate.average import check_one_method
    from fastdual.evaluate.results import find_results
    from fastdual.loaders.files import write
    from fastdual.report.table import markdown_table

    found = find_results(paths)
    if with_mean:
        check_one_method(found)
    table = markdown_table(found, with_mean=with_mean)
    if output is None:
        click.echo(table)
    else:
        write(output, f"{table}\n", "the table")
        click.echo(f"{output}: {len(table.splitlines()) - 2} rows")
