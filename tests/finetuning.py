"""Small runs of `fastdual finetune` for tests: real videos, a small pretrained network."""

from pathlib import Path
from typing import Any

from click.testing import Result

from tests.evaluate.small import (
    small_checkpoint,
    small_index_file,
)
from tests.runs import invoke

QUICK = {
    "clip.frames_per_clip": 8,
    "clip.frame_stride": 2,
    "clip.resize_height": 36,
    "clip.resize_width": 48,
    "clip.crop_size": 32,
    "clip.clips_per_video": 2,
    "data.batch_size": 4,
    "data.num_workers": 1,
    "schedule.epochs": 2,
    "schedule.milestones": "[1]",
    "run.log_every_steps": 1,
    "run.checkpoint_every_steps": 3,
    "run.device": "cpu",
}


def arguments(run: Path, *more: str, **settings: Any) -> list[str]:
    values = QUICK | {key.replace("__", "."): value for key, value in settings.items()}
    pairs = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    source, data = str(small_checkpoint()), str(small_index_file())
    recipe = () if "--recipe" in more else ("--recipe", "paper-finetune-ucf101")
    return ["finetune", source, data, "--run", str(run), *recipe, *pairs, *more]


def finetune(run: Path, *more: str, **settings: Any) -> Result:
    return invoke(arguments(run, *more, **settings))
