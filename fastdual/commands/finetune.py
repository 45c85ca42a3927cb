"""`fastdual finetune`: from a pretrained backbone and labels to an action classifier."""

import functools
import warnings
from pathlib import Path
from typing import Any

import click

from fastdual.commands.backbone import backbone_option
from fastdual.commands.evaluation import RecordedCommand, typed_command
from fastdual.commands.progress import video_progress

_PATH = click.Path(path_type=Path)
_KEYS = {
    "train": "data.split",
    "test": "test.split",
    "device": "run.device",
    "epochs": "schedule.epochs",
    "batch_size": "data.batch_size",
    "seed": "run.seed",
}


@click.command(cls=RecordedCommand)
@click.argument("source", type=_PATH)
@click.argument("data", type=_PATH)
@click.option("--run", "run_path", type=_PATH, required=True, help="Folder that keeps everything.")
@click.option("--recipe", help="Recipe or TOML file.  [default: paper-finetune-k400]")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Set any recipe key.")
@click.option("--freeze", is_flag=True, help="Linear probe: train the classifier alone.")
@click.option("--resume", is_flag=True, help="Go on with the run in the folder, if there is one.")
@click.option("--train", help="Split that is trained on.  [default: train]")
@click.option("--test", help="Split that is measured on at the end.  [default: test]")
@click.option("--allow-overlap", is_flag=True, help="Measure although train and test overlap.")
@click.option("--random-weights", is_flag=True, help="Start from untrained weights: a baseline.")
@click.option("--device", help="cpu, cuda, cuda:1 ...  [default: a GPU if there is one]")
@click.option("--epochs", type=int, help="Passes over the videos.")
@click.option("--batch-size", type=int, help="Videos in a batch, over all processes together.")
@click.option("--seed", type=int, help="Decides the classifier, the order and every clip.")
@click.option("--root", type=_PATH, help="Folder that the videos of an index lie under now.")
@backbone_option
def command(
    source: Path,
    data: Path,
    run_path: Path,
    recipe: str | None,
    settings: tuple[str, ...],
    freeze: bool,
    resume: bool,
    allow_overlap: bool,
    random_weights: bool,
    root: Path | None,
    **flags: Any,
) -> None:
    """Train a classifier on DATA, starting from the backbone of SOURCE, and test it.

    SOURCE: a run, a checkpoint or a file of fastdual export. Clips are sampled as the paper does;
    the test averages the softmax of 10 clips a video. Under torchrun it joins the given processes.

    \b
      fastdual finetune runs/k400 x.h5 --run runs/ucf --train ucf101-1/train --test ucf101-1/test
      fastdual finetune k400.safetensors data.h5 --run runs/linear --freeze
    """
    # torch takes seconds to import; --help does not wait for it.
    from fastdual.distributed import read_world
    from fastdual.evaluate.results import make_result, result_file, write_result
    from fastdual.finetune import finetune
    from fastdual.finetune_config import resolve_finetune
    from fastdual.loaders.index import open_index
    from fastdual.pretrain import choose_split
    from fastdual.report.table import summary
    from fastdual.runfolder import RunFolder
    from fastdual.weights import load, load_random

    given = {
        f"--{name.replace('_', '-')}": (_KEYS[name], value)
        for name, value in flags.items()
        if value is not None
    }
    if freeze:
        given["--freeze"] = ("model.freeze", True)
    folder, world = RunFolder(run_path), read_world()
    encoder = load_random(source, seed=flags["seed"] or 0) if random_weights else load(source)
    config = resolve_finetune(
        folder, encoder, recipe=recipe, flags=given, settings=settings, resume=resume
    )
    with warnings.catch_warnings():
        warnings.showwarning = lambda text, *_: click.echo(f"warning: {text}", err=True)
        index = open_index(data, root=root)
        with video_progress("testing") as progress:
            result = finetune(
                index,
                encoder,
                folder,
                config,
                world=world,
                announce=functools.partial(click.echo, err=True)
                if world.is_main
                else lambda _: None,
                allow_overlap=allow_overlap,
                progress=progress,
            )
    training = result.training
    if training.signal_number is not None:
        click.echo(f"stopped by a signal, at step {training.step} of {training.total_steps}")
        raise click.exceptions.Exit(128 + training.signal_number)
    if result.classification is None:
        return
    values = config.config
    report = make_result(
        task="linear" if values.model.freeze else "finetune",
        command=typed_command(),
        checkpoint=values.model.weights,
        data_fingerprint=index.fingerprint,
        settings={"backbone": values.model.backbone, "config": values.to_dict()},
        splits=[
            {
                "train": choose_split(index, values.data.split) or "all",
                "test": values.test.split,
                "num_train": result.num_train,
                "num_test": len(result.classification.labels),
                **result.classification.report(),
                "overlaps": result.overlaps,
            }
        ],
    )
    output = result_file(run_path, report)
    write_result(output, report)
    click.echo(summary(report))
    click.echo(f"result: {output}")
