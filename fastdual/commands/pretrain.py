"""`fastdual pretrain`: from a folder of videos or an index to a pretrained backbone."""

import functools
import warnings
from pathlib import Path
from typing import Any

import click

from fastdual.commands.progress import video_progress

_PATH = click.Path(path_type=Path)
_KEYS = {
    "device": "run.device",
    "epochs": "schedule.epochs",
    "batch_size": "data.batch_size",
    "seed": "run.seed",
}


@click.command("pretrain")
@click.argument("data", type=_PATH)
@click.option("--run", "run_path", type=_PATH, required=True, help="Folder that keeps everything.")
@click.option("--recipe", help="Name of a recipe or a TOML file.  [default: paper-simclr]")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Set any recipe key.")
@click.option(
    "--show-config", is_flag=True, help="Print every key with its value and origin; stop."
)
@click.option("--resume", is_flag=True, help="Go on with the run in the folder, if there is one.")
@click.option("--device", help="cpu, cuda, cuda:1 ...  [default: a GPU if there is one]")
@click.option("--epochs", type=int, help="Passes over the videos.")
@click.option("--batch-size", type=int, help="Videos in a batch.")
@click.option("--seed", type=int, help="Decides the weights, the order and every clip.")
@click.option("--root", type=_PATH, help="Folder that the videos of an index lie under now.")
def command(
    data: Path,
    run_path: Path,
    recipe: str | None,
    settings: tuple[str, ...],
    show_config: bool,
    resume: bool,
    root: Path | None,
    **flags: Any,
) -> None:
    """Pretrain a backbone on DATA: a folder of videos, a CSV file that lists them, or an index.

    SIGTERM and Ctrl-C save before they end the run (exit codes 143 and 130); --resume goes on with
    exactly the steps that would have followed.

    \b
      fastdual pretrain videos --run runs/first --recipe tiny
      fastdual pretrain k400.h5 --run runs/k400 --set data.batch_size=256
    """
    # torch takes seconds to import; --help does not wait for it.
    from fastdual.distributed import read_world
    from fastdual.loaders.index import open_index
    from fastdual.pretrain import pretrain
    from fastdual.recipe import to_toml
    from fastdual.runfolder import RunFolder, resolve_config

    given = {_KEYS[name]: value for name, value in flags.items() if value is not None}
    folder, resume = RunFolder(run_path), resume or show_config
    config = resolve_config(folder, recipe=recipe, flags=given, settings=settings, resume=resume)
    if show_config:
        click.echo(to_toml(config.config.to_dict(), config.sources), nl=False)
        return
    with warnings.catch_warnings():
        warnings.showwarning = lambda text, *_: click.echo(f"warning: {text}", err=True)
        world = read_world()
        with video_progress("indexing") as progress:
            index = open_index(data, root=root, progress=progress)
        announce = functools.partial(click.echo, err=True)
        result = pretrain(index, folder, config, world=world, announce=announce)
    click.echo(f"checkpoint  {result.checkpoint}")
    if result.signal_number is not None:
        click.echo(f"stopped     by a signal, at step {result.step} of {result.total_steps}")
        click.echo(f"go on with  fastdual pretrain {data} --run {run_path} --resume")
        raise click.exceptions.Exit(128 + result.signal_number)
    click.echo(f"next        fastdual retrieve {run_path} {data}")
