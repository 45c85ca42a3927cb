"""`fastdual table`: results of several runs side by side."""

from pathlib import Path

import click

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("sources", type=_PATH, nargs=-1, required=True)
@click.option("-o", "--output", type=_PATH, help="Write the table here instead of printing it.")
def command(sources: tuple[Path, ...], output: Path | None) -> None:
    """Make a Markdown table of results. SOURCES: run folders (all their results), result files.

    \b
      fastdual table runs/a runs/b baseline.json -o table.md
    """
    # torch takes seconds to import; --help does not wait for it.
    from fastdual.checkpoint import write_atomically
    from fastdual.evaluate.results import find_results
    from fastdual.report.table import markdown_table

    table = markdown_table(find_results(sources))
    if output is None:
        click.echo(table)
    else:
        write_atomically(output, f"{table}\n".encode())
        click.echo(f"{output}: {len(table.splitlines()) - 2} rows")
