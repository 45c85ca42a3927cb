"""`fastdual pretrain`: from a folder of videos or an index to a pretrained backbone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from fastdual.commands.shared.launching import (
    accept_option,
    announcer,
    check_run_folder,
    config_request,
    end_stopped,
    is_launching,
    launch_command,
    launch_options,
    open_data,
    show_config,
    show_config_option,
    training_process,
)
from fastdual.commands.shared.next_command import show_next, typed
from fastdual.commands.shared.options import InputPath, allow_missing_option
from fastdual.commands.shared.progress import video_progress
from fastdual.console import say

_PATH = InputPath()
_KEYS = {
    "device": "run.device",
    "epochs": "schedule.epochs",
    "batch_size": "data.batch_size",
    "seed": "run.seed",
    "losses": "loss.backend",
    "backbone": "model.backbone",
    "split": "data.split",
    "verbose": "run.verbose",
}


@click.command("pretrain")
@click.argument("data", type=_PATH)
@click.option("--run", "run_path", type=_PATH, required=True, help="Folder that keeps everything.")
@click.option("--recipe", help="Name or TOML file.  [default: what suits the machine]")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Set any recipe key.")
@show_config_option
@click.option(
    "--init",
    type=_PATH,
    help="Begin with the weights of this run, checkpoint, export or file of other code.",
)
@click.option("--resume", is_flag=True, help="Go on with the run in the folder, if there is one.")
@click.option("--split", help="Split that is trained on.  [default: train if there is one]")
@click.option("--device", help="cpu, cuda, cuda:1 ...  [default: a GPU if there is one]")
@click.option("--epochs", type=int, help="Passes over the videos.")
@click.option("--batch-size", type=int, help="Videos in a batch, over all processes together.")
@click.option("--seed", type=int, help="Decides the weights, the order and every clip.")
@click.option("--backbone", help="Name of a backbone, or your own as package.module:factory.")
@click.option(
    "--losses",
    type=click.Choice(["auto", "eager", "fused"]),
    help="Fused Triton kernels, or plain torch to compare.  [default: auto, fused on a GPU]",
)
@click.option("--verbose", is_flag=True, help="Show every metric; the log has them anyway.")
@click.option("--root", type=_PATH, help="Folder that the videos of an index lie under now.")
@allow_missing_option
@accept_option
@launch_options
@click.pass_context
def command(ctx: click.Context, /, data: Path, run_path: Path, **options: Any) -> None:
    """Pretrain a backbone on DATA: a folder of videos, a CSV file that lists them, or an index.

    SIGTERM, SIGUSR1, Ctrl-C and the end of the terminal save before they end the run (exit codes
    143, 138, 130 and 129); --resume continues with exactly the steps that would have followed, on
    any number of processes. Under torchrun or srun it joins their processes.

    \b
      fastdual pretrain videos --run runs/first
      fastdual pretrain k400.h5 --run runs/k400 --set data.batch_size=256 --gpus 8
    """
    # torch takes seconds to import; --help does not wait for it.
    from fastdual.run.folder import RunFolder
    from fastdual.training.resume import resolve_pretrain
    from fastdual.weights.initial import initial_file, read_initial

    options["verbose"] = options["verbose"] or None
    folder, begun = RunFolder(run_path), dict[str, Any]()
    if options["init"] is not None:
        file, sha256 = initial_file(options["init"])
        begun["--init"] = ("model.init", sha256)
    with training_process():
        check_run_folder(folder)
        if options["recipe"] is None and not folder.holds_run and not begun:
            _choose_recipe(data, options)
        if options["show_config"]:
            show_config(resolve_pretrain(folder, replace(_request(options, begun), resume=True)))
            return
        config = resolve_pretrain(folder, _request(options, begun))
        _check_backbone(config)
        if is_launching(options):
            launch_command(ctx, config.config, data=data, root=options["root"])
        else:
            initial = None if options["init"] is None else read_initial(file, config.config)
            _train(data, folder, config, options, initial)


def _request(options: dict[str, Any], begun: dict[str, Any]) -> Any:
    request = config_request(_KEYS, options)
    return replace(request, flags={**request.flags, **begun})


def _choose_recipe(data: Path, options: dict[str, Any]) -> None:
    """Set the recipe that suits machine and videos, and say which it is and why."""
    from fastdual.distributed.world import read_world
    from fastdual.loaders.index import open_index
    from fastdual.training.choice import choose_recipe
    from fastdual.training.execution import choose_device
    from fastdual.training.start import choose_split

    with video_progress("indexing") as progress:
        index = open_index(data, root=options["root"], progress=progress)
    videos = index.split(choose_split(index, options["split"] or "auto"))
    choice = choose_recipe(len(videos), choose_device(options["device"] or "auto"))
    options["recipe"] = choice.recipe
    if options["batch_size"] is None:
        options["batch_size"] = choice.batch_size
    if read_world().is_main and not is_launching(options):  # the processes say it themselves
        say(f"recipe    {choice.recipe}: {choice.reason}; --recipe NAME takes another", err=True)


def _check_backbone(config: Any) -> None:
    """Refuse a backbone of the user's own, which is code, unless the user named it."""
    from fastdual.backbones.custom import check_named

    origin = config.sources["model.backbone"]
    if origin.startswith("run "):
        check_named(config.config.model.backbone, origin=origin)


def _train(data: Path, folder: Any, config: Any, options: dict[str, Any], initial: Any) -> None:
    """Train in this process, alone or as one of the world that it was started in."""
    from fastdual.distributed.world import read_world
    from fastdual.training.pretrain import Pretraining
    from fastdual.training.start import run

    world = read_world()
    task, announce = Pretraining(config.config), announcer(world)
    if initial is not None:
        task = replace(task, initial=initial.weights)
        announce(f"init      {initial.describe()}")
    index = open_data(data, folder, options, announce)
    accepted = options["accept_data_changes"]
    how: dict[str, Any] = {"world": world, "announce": announce, "accept_data_changes": accepted}
    result = run(task, index, folder, config.sources, **how)
    stopped = result.signal_number
    backbone = config.config.model.backbone
    needed = {"root": options["root"], "backbone": backbone if ":" in backbone else None}
    if world.is_main:
        say(f"checkpoint  {result.checkpoint}")
        if stopped is None:
            show_next("report", folder.path, data, **needed)
        else:
            say(f"stopped     by a signal, at step {result.step} of {result.total_steps}")
            again = ("pretrain", data, "--run", folder.path, "--resume")
            say(f"continue with  {typed(*again, **needed)}")
    if stopped is not None:
        end_stopped(stopped)
