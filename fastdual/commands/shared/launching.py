"""What the commands that train share: launch options, the config that is asked for, the end."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastdual.commands.shared.backbone_option import named_on_command_line
from fastdual.commands.shared.progress import video_progress
from fastdual.console import say, say_text
from fastdual.errors import FailureError, InputError

if TYPE_CHECKING:
    from fastdual.config.sections import RunConfig
    from fastdual.distributed.plan import LaunchPlan
    from fastdual.distributed.world import World
    from fastdual.training.resume import ConfigRequest

show_config_option = click.option(
    "--show-config", is_flag=True, help="Print every key with its value and origin; stop."
)
accept_option = click.option(
    "--accept-data-changes",
    is_flag=True,
    help="With --resume: take videos that changed, came or went since, in a new order.",
)

# Where the run computes, not what: the launcher reads them, its processes do not get them.
LAUNCH_OPTIONS = ("gpus", "nnodes", "node_rank", "rdzv_endpoint", "max_restarts")
_OPTIONS = (
    click.option(
        "--gpus",
        type=int,
        help="Processes to start on this machine, each on a GPU of its own; with --device cpu, so "
        "many on the CPU.  [default: this one]",
    ),
    click.option("--nnodes", type=int, help="Machines that train together, each with --gpus."),
    click.option("--node-rank", type=int, help="Number of this machine; they meet at number 0."),
    click.option("--rdzv-endpoint", metavar="HOST:PORT", help="Where the machines meet."),
    click.option(
        "--max-restarts",
        type=int,
        help="How often to start again after a process died.  [default: 0]",
    ),
)


def launch_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how many processes there are and where they meet."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def is_launching(options: dict[str, Any]) -> bool:
    """Return whether the command line asks for processes of their own."""
    return any(options[name] is not None for name in LAUNCH_OPTIONS)


@contextlib.contextmanager
def training_process() -> Iterator[None]:
    """Run the block as a process that trains, launched or not.

    Warnings become lines, and writes survive a reader that is gone. A launched process ends with
    its launcher, and reports its errors to it.
    """
    from fastdual.distributed.launched import (
        follow_launcher,
        is_launched,
        leave_launcher,
        report_error,
    )
    from fastdual.distributed.signals import lasting_output

    launched = is_launched()
    if launched:
        follow_launcher()
    with warnings.catch_warnings(), lasting_output():
        warnings.showwarning = lambda text, *_: say(f"warning: {text}", err=True)
        try:
            yield
        except (InputError, FailureError) as error:
            if not launched:
                raise
            raise click.exceptions.Exit(report_error(error)) from None
        finally:
            if launched:
                leave_launcher()


def check_run_folder(folder: Any) -> None:
    """Make sure, before the work, that the process that writes a run can write its RunFolder."""
    from fastdual.distributed.world import read_world

    if read_world().is_main:
        folder.check_place()


def launch_command(ctx: click.Context, config: Any, *, data: Path, root: Path | None) -> None:
    """Check what one process can check, then start all of them with this command line.

    Args:
        ctx: Of the command.
        config: Of the run, with the sections `run` and `data`.
        data: Opened once here, so that its index exists for all processes.
        root: Folder that the videos lie under.
    """
    from fastdual.distributed.launch import launch
    from fastdual.loaders.index import open_index
    from fastdual.loaders.order import check_world
    from fastdual.training.execution import check_gpus

    plan = _plan_of(ctx.params, config.run)
    check_gpus(config.run.device, plan.processes)
    world_size = plan.processes * plan.nodes
    check_world(rank=0, world_size=world_size, global_batch_size=config.data.batch_size)
    with video_progress("indexing") as progress:
        # What a run that goes on makes of missing videos, its processes say.
        allowed = ctx.params["allow_missing"] or ctx.params["resume"]
        open_index(data, root=root, progress=progress, allow_missing=allowed)
    code = launch(arguments_of(ctx), plan)
    if code:
        raise click.exceptions.Exit(code)


def _plan_of(given: Mapping[str, Any], run: "RunConfig") -> "LaunchPlan":
    """Return the launch that options ask for; a cluster's variables say what is not given."""
    from fastdual.distributed.plan import LaunchPlan
    from fastdual.distributed.world import read_machines, read_world

    options = dict(given)
    if options["gpus"] is None:
        raise InputError("--nnodes, --node-rank, --rdzv-endpoint and --max-restarts need --gpus N")
    machines = read_machines()
    if machines is None and read_world().size > 1:
        raise InputError(
            f"--gpus {options['gpus']}: torchrun or srun has started these processes already; "
            "leave --gpus out, or start a single process on each machine"
        )
    if machines is not None and options["nnodes"] is None:
        options["nnodes"] = machines.nodes
        for name, said in (("node_rank", machines.node_rank), ("rdzv_endpoint", machines.endpoint)):
            options[name] = said if options[name] is None else options[name]
    return LaunchPlan(
        processes=options["gpus"],
        nodes=1 if options["nnodes"] is None else options["nnodes"],
        node_rank=options["node_rank"] or 0,
        endpoint=options["rdzv_endpoint"],
        max_restarts=options["max_restarts"] or 0,
        timeout_seconds=run.timeout_seconds,
        bind_to_numa_node=run.device != "cpu" and run.numa_binding == "auto",
    )


def arguments_of(ctx: click.Context) -> list[str]:
    """Return the command line of each process: all that was given, without the launch options."""
    words = [str(ctx.info_name)]
    positional = []
    for parameter in ctx.command.params:
        name = parameter.name or ""
        value = ctx.params.get(name)
        if isinstance(parameter, click.Argument):
            positional.append(str(value))
        # Not `in (None, False)`: 0 is equal to False, and was given.
        elif name not in LAUNCH_OPTIONS and value is not None and value is not False:
            several = value if isinstance(value, tuple) else (value,)
            for one in several:
                words += [parameter.opts[0]] if one is True else [parameter.opts[0], str(one)]
    named = named_on_command_line(ctx)
    if named is not None:
        words += ["--backbone", named]
    return [*words, "--", *positional]


def open_data(
    data: Path,
    folder: Any,
    options: Mapping[str, Any],
    say: Callable[[str], None],
    prepare: Callable[[Any], Any] = lambda index: index,
) -> Any:
    """Return the index that a run trains on: of DATA, or that which it began with.

    Args:
        data: Index, pack, folder, list or video.
        folder: Of the run.
        options: With `root`, `allow_missing`, `resume` and `accept_data_changes`.
        say: Called with a line for people where the data changed.
        prepare: Makes of the index of DATA what the run is given.
    """
    from fastdual.distributed.launched import is_launched, is_restart
    from fastdual.loaders.index import open_index
    from fastdual.training.data_change import settle_data

    goes_on = folder.holds_run and (options["resume"] or (is_launched() and is_restart()))
    allowed = options["allow_missing"] or goes_on
    with video_progress("indexing") as progress:
        index = open_index(data, root=options["root"], progress=progress, allow_missing=allowed)
    index = prepare(index)
    if goes_on:
        index, told = settle_data(folder, index, accept_changes=options["accept_data_changes"])
        if told is not None:
            say(told)
    return index


def config_request(keys: Mapping[str, str], options: Mapping[str, Any]) -> "ConfigRequest":
    """Return what the options of a command say of its run's config.

    Args:
        keys: Dotted key of each option that sets one; an option that is None was not given.
        options: With `recipe`, `settings` and `resume`; a process that was restarted resumes.
    """
    from fastdual.distributed.launched import is_launched, is_restart
    from fastdual.training.resume import ConfigRequest

    return ConfigRequest(
        recipe=options["recipe"],
        flags={
            f"--{name.replace('_', '-')}": (key, options[name])
            for name, key in keys.items()
            if options[name] is not None
        },
        settings=options["settings"],
        resume=options["resume"] or (is_launched() and is_restart()),
    )


def show_config(resolved: Any) -> None:
    """Print a config as TOML, each key with its origin; it can be saved as a recipe."""
    from fastdual.config.recipe import to_toml

    say_text(to_toml(resolved.config.to_dict(), resolved.sources).rstrip("\n"))


def announcer(world: "World") -> Callable[[str], None]:
    """Return what tells people what is going to be done: on stderr, by one process of all."""
    return partial(say, err=True) if world.is_main else lambda _: None


def end_stopped(signal_number: int) -> None:
    """End a command whose run a signal stopped: exit code 128 + n, through a launcher if any."""
    from fastdual.distributed.launched import is_launched, report_signal

    if not is_launched():
        raise click.exceptions.Exit(128 + signal_number)
    report_signal(signal_number)
