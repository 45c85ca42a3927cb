"""A set of a few real videos for the parts of bench.method, and rows with numbers of one's own."""

import csv
import shutil
from pathlib import Path
from typing import Any

from bench.parts.method.data import DataSet
from fastdual.loaders.index import load_index
from tests.evaluate.small import small_index_file


def small_set(folder: Path) -> DataSet:
    """24 videos of 8 classes in 3 groups, the scenes, one of which each fold tests."""
    index = load_index(small_index_file())
    shutil.copytree(index.root, folder, dirs_exist_ok=True)
    with open(folder / "small.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "group"))
        for video, path in enumerate(index.paths):
            label = index.class_names[index.labels[video]]
            writer.writerow((path, label, Path(path).stem))
    return DataSet("small", folder, frame_stride=2, num_folds=3)


def row(contestant: str, answers: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A row of a fold with two groups of equal size."""
    half = len(next(iter(answers.values()))) // 2
    values: dict[str, Any] = {
        "key": f"{contestant}{more}",
        "data": "signs",
        "fold": 0,
        "seed": 0,
        "contestant": contestant,
        "changed": {},
        "search": False,
        "groups": ["a", "b"],
        "group_of": [0] * half + [1] * half,
        "classes": 10,
        "train_videos": 30,
        "answers": answers,
        "means": {"finetuned_100": 0.5},
        "seconds": {"all": 60.0},
    }
    return values | more
