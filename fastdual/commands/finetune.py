"""`fastdual finetune`: from a pretrained backbone and labels to an action classifier."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from fastdual.commands.shared.backbone_option import backbone_option
from fastdual.commands.shared.evaluation import RecordedCommand, typed_command
from fastdual.commands.shared.held_out import HoldOutRequest, hold_out_options
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
from fastdual.commands.shared.next_command import show_next
from fastdual.commands.shared.options import (
    InputPath,
    allow_missing_option,
    overlap_options,
    split_pair,
)
from fastdual.commands.shared.progress import video_progress
from fastdual.console import say, say_text
from fastdual.errors import InputError

_PATH = InputPath()
_KEYS = {
    "train": "data.split",
    "test": "test.split",
    "device": "run.device",
    "epochs": "schedule.epochs",
    "batch_size": "data.batch_size",
    "seed": "run.seed",
    "freeze": "model.freeze",
    "verbose": "run.verbose",
}


@click.command(cls=RecordedCommand)
@click.argument("source", type=_PATH)
@click.argument("data", type=_PATH)
@click.option("--run", "run_path", type=_PATH, required=True, help="Folder that keeps everything.")
@click.option("--recipe", help="Name or TOML file.  [default: what suits the network]")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Set any recipe key.")
@show_config_option
@click.option("--freeze", is_flag=True, help="Linear probe: train the classifier alone.")
@click.option("--resume", is_flag=True, help="Go on with the run in the folder, if there is one.")
@click.option("--train", help="Split that is trained on.  [default: train]")
@click.option("--test", help="Split that is measured on at the end.  [default: test]")
@click.option("--split", "family", help="NAME stands for NAME/train and NAME/test.")
@hold_out_options
@overlap_options
@click.option("--random-weights", is_flag=True, help="Start from untrained weights: a baseline.")
@click.option("--device", help="cpu, cuda, cuda:1 ...  [default: a GPU if there is one]")
@click.option("--epochs", type=int, help="Passes over the videos.")
@click.option("--batch-size", type=int, help="Videos in a batch, over all processes together.")
@click.option("--seed", type=int, help="Decides the classifier, the order and every clip.")
@click.option("--verbose", is_flag=True, help="Show every metric; the log has them anyway.")
@click.option("--root", type=_PATH, help="Folder that the videos of an index lie under now.")
@allow_missing_option
@accept_option
@backbone_option
@launch_options
@click.pass_context
def command(ctx: click.Context, /, source: Path, data: Path, **options: Any) -> None:
    """Train a classifier on DATA, starting from the backbone of SOURCE, and test it.

    SOURCE: a run, a checkpoint or a file of fastdual export. Clips are sampled as the paper does;
    the test averages the softmax of 10 clips per video. --gpus starts several processes; under
    torchrun or srun it joins the given ones.

    \b
      fastdual finetune runs/k400 ucf101.h5 --run runs/ucf1 --split ucf101-1
      fastdual finetune k400.safetensors data.h5 --run runs/linear --freeze
    """
    # torch takes seconds to import; --help does not wait for it.
    from fastdual.run.folder import RunFolder
    from fastdual.training.resume import resolve_finetune
    from fastdual.weights.load import load_network

    if options["family"] is not None:
        pair = split_pair(options["family"], options["train"], options["test"])
        options["train"], options["test"] = pair
    for flag in ("freeze", "verbose"):
        options[flag] = options[flag] or None
    with training_process():
        folder = RunFolder(options["run_path"])
        check_run_folder(folder)
        random_weights, seed = options["random_weights"], options["seed"] or 0
        network = load_network(source, heads=False, random_weights=random_weights, seed=seed)
        encoder = network.encoder
        request = config_request(_KEYS, options)
        if options["show_config"]:
            show_config(resolve_finetune(folder, replace(request, resume=True), encoder))
            return
        config = resolve_finetune(folder, request, encoder)
        if is_launching(options):
            launch_command(ctx, config.config, data=data, root=options["root"])
        else:
            _finetune(data, network, folder, config, options)


def _finetune(data: Path, network: Any, folder: Any, config: Any, options: dict[str, Any]) -> None:
    """Train and test in this process, alone or as one of the world that it was started in."""
    from fastdual.distributed.world import read_world
    from fastdual.evaluate.pairs import num_seen
    from fastdual.evaluate.ten_clips import finetune_and_test

    world = read_world()
    announce = announcer(world)
    held: list[Any] = []

    def divide(index: Any) -> Any:
        divided, how = _with_splits(index, config.config, options)
        if how is not None:
            held.append(how)
            announce(how.describe(folder.path / "results"))
        return divided

    index = open_data(data, folder, options, announce, divide)
    with video_progress("testing") as progress:
        result = finetune_and_test(
            index,
            network.encoder,
            folder,
            config,
            world=world,
            announce=announce,
            accept_data_changes=options["accept_data_changes"],
            allow_overlap=options["allow_overlap"],
            overlaps_file=options["overlaps_file"],
            progress=progress,
        )
    stopped = result.training.signal_number
    if stopped is not None:
        if world.is_main:
            steps = f"{result.training.step} of {result.training.total_steps}"
            say(f"stopped by a signal, at step {steps}")
        end_stopped(stopped)
    elif result.classification is not None:
        for how in held:
            how.save(folder.path / "results")
        more = {"held_out": held[0].to_dict()} if held else {}
        more["pretrained_on"] = num_seen(network, index, config.config.test.split)
        _write_result(index, config.config, result, folder.path, more)


def _with_splits(index: Any, config: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    """Return the index with both splits, and what was held out if the data have none."""
    from fastdual.evaluate.hold_out import choose_splits

    if (config.data.split, config.test.split) != ("auto", "test"):
        return index, None
    how = HoldOutRequest(options["test_share"], options["split_seed"]).how()
    index, (_, test), held = choose_splits(index, None, None, how)
    if test != "test":
        raise InputError(f"the data have no split 'test': say --test {test}, or name another")
    return index, held


def _write_result(index: Any, config: Any, result: Any, run: Path, more: dict[str, Any]) -> None:
    from fastdual.evaluate.features import plain_left_out
    from fastdual.evaluate.results import make_result, result_file, write_result
    from fastdual.report.table import summary
    from fastdual.training.start import choose_split

    train = choose_split(index, config.data.split)
    report = make_result(
        task="linear" if config.model.freeze else "finetune",
        command=typed_command(),
        weights_sha256=config.model.weights,
        data_fingerprint=index.fingerprint,
        settings={"backbone": config.model.backbone, "config": config.to_dict()},
        splits=[
            {
                "train": train or "all",
                "test": config.test.split,
                "num_train": len(index.split(train)),
                "num_test": len(result.classification.labels),
                **result.classification.report(),
                "left_out": {"test": plain_left_out(result.left_out)},
                "overlaps": result.overlaps,
                **more,
            }
        ],
    )
    output = result_file(run, report)
    write_result(output, report)
    say_text(summary(report))
    say(f"result: {output}")
    show_next("table", run)
