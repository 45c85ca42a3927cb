"""`fastdual replay`: take the step again at which a run stopped being finite."""

from pathlib import Path

import click

from fastdual.commands.shared.backbone_option import backbone_option
from fastdual.commands.shared.options import InputPath, allow_missing_option
from fastdual.commands.shared.progress import video_progress
from fastdual.console import say

_PATH = InputPath()


@click.command("replay")
@click.argument("plan", type=_PATH)
@click.argument("data", type=_PATH)
@click.option("--root", type=_PATH, help="Folder that the videos of an index lie under now.")
@allow_missing_option
@backbone_option
def command(plan: Path, data: Path, root: Path | None, allow_missing: bool) -> None:
    """Repeat the step of PLAN, a file RUN/plan-step-*.npz, on the DATA of that run.

    Starts from the checkpoint before it, changes nothing in the run folder, and tells which clips,
    layers, losses and gradients are not finite.

    \b
      fastdual replay runs/first/plan-step-00000123.npz videos.h5
    """
    from fastdual.loaders.index import open_index
    from fastdual.training.replay import replay

    if data.suffix == ".npz":  # as earlier versions had it, and their messages
        plan, data = data, plan
    with video_progress("indexing") as progress:
        index = open_index(data, root=root, progress=progress, allow_missing=allow_missing)
    for line in replay(index, plan):
        say(line)
