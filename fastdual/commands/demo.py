"""`fastdual demo`: the demo videos, and with --train the complete workflow on them."""

from pathlib import Path

import click

from fastdual.commands.shared.next_command import show_pretraining
from fastdual.commands.shared.options import InputPath
from fastdual.commands.shared.progress import video_progress
from fastdual.console import say
from fastdual.demo.videos import CLASSES, DemoSet, write_demo

DEFAULTS = DemoSet()


@click.command()
@click.argument("folder", type=InputPath())
@click.option(
    "--train-scenes",
    default=DEFAULTS.train_scenes,
    show_default=True,
    help="Scenes for training; each shows every class once.",
)
@click.option(
    "--test-scenes",
    default=DEFAULTS.test_scenes,
    show_default=True,
    help="Scenes kept apart for testing.",
)
@click.option("--frames", default=DEFAULTS.frames, show_default=True, help="Longest video, frames.")
@click.option("--seed", default=DEFAULTS.seed, show_default=True, help="Same seed, same bytes.")
@click.option("--train", is_flag=True, help="Go on: index, pretrain, retrieve and plot them.")
def command(
    folder: Path, train_scenes: int, test_scenes: int, frames: int, seed: int, train: bool
) -> None:
    """Write the demo videos into FOLDER (with --train, FOLDER/videos), and a table of them.

    Eight classes of a shape that moves, drawn before scenes that never appear in both train and
    test, encoded as H.264 and VP9 in four sizes. The table videos.csv names each file's label,
    scene and split.
    """
    demo = DemoSet(train_scenes=train_scenes, test_scenes=test_scenes, frames=frames, seed=seed)
    videos = folder / "videos" if train else folder
    with video_progress("writing") as progress:
        for done, total in write_demo(videos, demo):
            progress(done, total, 0)
    say(f"{videos}: {len(CLASSES)} classes, table in {videos / 'videos.csv'}")
    if train:
        from fastdual.demo.walkthrough import run_demo

        run_demo(folder)
    else:
        show_pretraining(videos / "videos.csv")
