"""`fastdual finetune` as it is typed: results, splits of a family, refusals."""

import json
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fastdual.evaluate.results import read_result
from fastdual.loaders.index import save_index
from tests.evaluate.small import (
    damage,
    small_checkpoint,
    small_index,
    small_index_file,
)
from tests.finetuning import arguments, finetune
from tests.runs import invoke, start


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("finetune") / "run"
    done = finetune(run, schedule__epochs=1, schedule__milestones="[]")
    assert done.exit_code == 0, done.output
    return run


def test_show_config_prints_a_recipe_that_suits_the_network(tmp_path: Path) -> None:
    run, network = tmp_path / "run", str(small_checkpoint())
    args = ["finetune", network, "videos", "--run", str(run), "--show-config"]
    first = invoke([*args, "--epochs", "7", "--freeze"])
    assert first.exit_code == 0, first.output
    assert 'name = "adamw"  # recipe tiny-finetune' in first.stdout
    assert (
        "freeze = true  # --freeze" in first.stdout and "crop_size = 48  # SOURCE" in first.stdout
    )
    (tmp_path / "mine.toml").write_text(first.stdout)
    second = invoke([*args, "--recipe", str(tmp_path / "mine.toml")])
    assert tomllib.loads(first.stdout) == tomllib.loads(second.stdout)
    assert not run.exists()


def test_random_weights_are_marked(tmp_path: Path) -> None:
    done = finetune(
        tmp_path / "run", "--random-weights", schedule__epochs=1, schedule__milestones="[]"
    )
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "run" / "results" / "finetune-random-test.json").read_text())
    assert result["checkpoint"] == "random weights, seed 0"


def test_splits_of_a_family_are_measured_one_by_one_and_averaged_by_the_table(
    tmp_path: Path,
) -> None:
    index = small_index()
    shutil.copytree(index.root, tmp_path / "videos")
    train, test = index.split("train"), index.split("test")
    splits = {"u-1/train": train, "u-1/test": test, "u-2/train": test, "u-2/test": train[:8]}
    index = replace(index, root=tmp_path / "videos", splits=splits)
    save_index(index, tmp_path / "u.h5")
    damage(index.path(test[3]))
    once = {"schedule__epochs": 1, "schedule__milestones": "[]"}
    for number in (1, 2):
        words = arguments(tmp_path / f"ft{number}", "--split", f"u-{number}", **once)
        done = invoke([*words[:2], str(tmp_path / "u.h5"), *words[3:]])
        assert done.exit_code == 0, done.output
    results = [
        read_result(tmp_path / "ft1" / "results" / "finetune-u-1-test.json"),
        read_result(tmp_path / "ft2" / "results" / "finetune-u-2-test.json"),
    ]
    firsts = [result["splits"][0] for result in results]
    assert [split["train"] for split in firsts] == ["u-1/train", "u-2/train"]
    assert [split["num_test"] for split in firsts] == [7, 8]
    assert firsts[0]["left_out"]["test"] == [
        {"path": index.paths[test[3]], "reason": "could not be decoded"}
    ]
    assert firsts[1]["left_out"]["test"] == []
    table = invoke(["table", "--mean", str(tmp_path / "ft1"), str(tmp_path / "ft2")])
    assert table.exit_code == 0, table.output
    values = [100 * split["metrics"]["top1"]["value"] for split in firsts]
    mean = f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"
    assert f"| mean of 2 | 15 | {mean} |" in table.stdout.splitlines()[-1]
    both = invoke(arguments(tmp_path / "no", "--split", "u-1", "--test", "u-2/test"))
    assert both.exit_code == 2 and "--split u-1 names both splits" in both.stderr
    again = invoke(["table", "--mean", str(tmp_path / "ft1"), str(tmp_path / "ft1")])
    assert again.exit_code == 2 and "name one result per split" in again.stderr


def test_what_does_not_fit_is_refused_before_anything_is_written(
    finished: Path, tmp_path: Path
) -> None:
    whole, test = small_index(), small_index().split("test")
    labels = whole.labels.copy()
    labels[test[0]] = -1
    save_index(replace(whole, labels=labels), tmp_path / "unlabelled.h5")
    labels = whole.labels.copy()
    labels[labels == 2] = 1
    save_index(replace(whole, labels=labels), tmp_path / "absent.h5")
    run = tmp_path / "run"
    root = ["--root", str(whole.root)]
    cases: dict[str, list[str]] = {
        "1 of the 8 videos of the split 'test' have no label": [
            str(tmp_path / "unlabelled.h5"),
            *root,
        ],
        "1 of 8 classes have no training video": [str(tmp_path / "absent.h5"), *root],
        "the index has no split 'val'": [str(small_index_file()), "--test", "val"],
        "overlap in 16 pairs": [str(small_index_file()), "--test", "train"],
        "data.batch_size = 17: larger": [*(str(small_index_file()), "--set", "data.batch_size=17")],
        "unknown key 'optimiser.accumulate_chunks'": [
            str(small_index_file()),
            "--set",
            "optimiser.accumulate_chunks=2",
        ],
        "SOURCE decides it": [str(small_index_file()), "--set", "model.backbone=r3d"],
    }
    for message, (data, *more) in cases.items():
        words = arguments(run, *more)
        done = invoke([*words[:2], data, *words[3:]])
        assert done.exit_code == 2, (message, done.output)
        assert message in done.stderr
        assert not run.exists()
    other, words = tmp_path / "step-00000008.pt", arguments(finished, "--resume")
    state = torch.load(small_checkpoint(), weights_only=True)
    torch.save({**state, "step": 9}, other)
    done = invoke([words[0], str(other), *words[2:]])
    assert done.exit_code == 2 and "model.weights is" in done.stderr
    assert finetune(finished).exit_code == 2


def test_two_processes_refuse_in_one_line(tmp_path: Path) -> None:
    process = start(arguments(tmp_path / "run", "--gpus", "2", "--test", "train"))
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 2, errors
    lines = [line for line in errors.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1 and "overlap in 16 pairs" in lines[0]
    assert not (tmp_path / "run").exists()
    done = finetune(tmp_path / "run", "--gpus", "3")
    assert done.exit_code == 2 and "batch size 4 does not divide over 3" in done.stderr
