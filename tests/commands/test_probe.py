"""`fastdual probe`, `knn` and `table` as they are typed: results, files, refusals."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from fastdual.cli import cli
from fastdual.evaluate.embed import EmbedOptions, embed
from fastdual.evaluate.features import FeatureSet
from fastdual.evaluate.results import read_result
from fastdual.weights.load import load_network
from tests.evaluate.small import small_checkpoint, small_index, small_index_file

QUICK = ["--clips-per-video", "2", "--workers", "1", "--device", "cpu"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [*map(str, arguments)])


@pytest.fixture(scope="module")
def features() -> FeatureSet:
    options = EmbedOptions(clips_per_video=2, num_workers=1)
    return embed(load_network(small_checkpoint()), small_index(), options=options)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    shutil.copy(small_checkpoint(), tmp_path / "run" / "checkpoints")
    return tmp_path / "run"


def test_run_leaves_a_result_that_says_what_it_is(run_folder: Path, features: FeatureSet) -> None:
    done = run("probe", run_folder, small_index_file(), *QUICK)
    assert done.exit_code == 0, done.output
    assert "16 training videos (train), 8 test videos (test)" in done.stdout
    (file,) = (run_folder / "results").iterdir()
    assert file.name.startswith("probe-test-clips2-stride4-seed0-data")
    result = read_result(file)
    assert result["command"].startswith(f"fastdual probe {run_folder} ")
    assert result["checkpoint"] == features.weights_sha256
    assert result["data_fingerprint"] == small_index().fingerprint
    assert result["versions"].keys() == {"fastdual", "torch", "python"}
    (split,) = result["splits"]
    assert np.sum(split["confusion"]) == split["num_test"] == 8
    assert split["metrics"]["top1"].keys() >= {"value", "low", "high", "resampled"}
    assert len(split["per_class"]) == 8


def test_files_give_what_the_run_gives(
    run_folder: Path, features: FeatureSet, tmp_path: Path
) -> None:
    features.save(tmp_path / "both.h5")
    features.part("train").save(tmp_path / "train.h5")
    features.part("test").save(tmp_path / "test.h5")
    reports = []
    for arguments in (
        [run_folder, small_index_file(), *QUICK],
        [tmp_path / "both.h5"],
        [tmp_path / "train.h5", tmp_path / "test.h5"],
    ):
        done = run("knn", *arguments, "--k", "3", "--json")
        assert done.exit_code == 0, done.output
        reports.append(json.loads(done.stdout))
    assert reports[0]["splits"] == reports[1]["splits"]
    assert reports[0]["splits"][0]["votes"] == 3
    more = run("knn", tmp_path / "both.h5", "--k", 200, "--json")
    assert json.loads(more.stdout)["splits"][0]["votes"] == 16  # all that there are
    assert reports[0]["mean"] == reports[1]["mean"] == reports[2]["mean"]


def test_several_splits_are_averaged(features: FeatureSet, tmp_path: Path) -> None:
    train, test = features.splits["train"], features.splits["test"]
    splits = {"a/train": train, "a/test": test, "b/train": train, "b/test": test[:4]}
    replace(features, splits=splits).save(tmp_path / "f.h5")
    output = tmp_path / "r.json"
    done = run("knn", tmp_path / "f.h5", "--split", "a", "--split", "b", "--k", 1, "-o", output)
    assert done.exit_code == 0, done.output
    result = read_result(output)
    values = [split["metrics"]["top1"]["value"] for split in result["splits"]]
    assert result["mean"]["top1"] == pytest.approx(np.mean(values))
    assert "mean of 2 splits" in done.stdout
    table = run("table", output)
    assert table.exit_code == 0, table.output
    lines = table.stdout.splitlines()
    assert [line.split(" | ")[4] for line in lines[2:]] == ["a/test", "b/test", "mean of 2"]


def test_other_settings_leave_an_earlier_result_alone(run_folder: Path) -> None:
    kept = {}
    for more in (["--k", 1], ["--k", 3], ["--k", 1, "--temperature", 1], ["--k", 1, "--stride", 1]):
        done = run("knn", run_folder, small_index_file(), *QUICK, *more)
        assert done.exit_code == 0, done.output
        files = {path: path.read_bytes() for path in (run_folder / "results").iterdir()}
        assert kept.items() < files.items() and len(files) == len(kept) + 1
        kept = files
    assert run("knn", run_folder, small_index_file(), *QUICK, "--k", 3).exit_code == 0
    assert {*(run_folder / "results").iterdir()} == kept.keys()
    rows = run("table", run_folder).stdout.splitlines()[2:]
    tasks = [row.split(" | ")[2] for row in rows]
    assert len(set(tasks)) == 4 and "knn, clips 2, stride 4, k 3, temperature 0.07" in tasks


def test_table_lists_every_result_of_a_run(run_folder: Path) -> None:
    for more in ([], ["--random-weights"]):
        done = run("knn", run_folder, small_index_file(), *QUICK, "--k", 1, *more)
        assert done.exit_code == 0, done.output
        assert done.stdout.startswith("knn, random weights  top1" if more else "knn  top1")
    table = run("table", run_folder, "-o", run_folder / "t.md")
    assert table.exit_code == 0, table.output
    rows = [line.split(" | ") for line in (run_folder / "t.md").read_text().splitlines()]
    assert rows[0][1:4] == ["weights", "task", "backbone"]
    assert sorted(row[1] == "random" for row in rows[2:]) == [False, True]
    assert rows[2][0] == "| run"


def test_overlapping_splits_are_refused_unless_told_otherwise(
    features: FeatureSet, tmp_path: Path
) -> None:
    same = replace(features, groups=("film",) * len(features))
    same.save(tmp_path / "f.h5")
    done = run("probe", tmp_path / "f.h5")
    assert done.exit_code == 2
    assert "overlap in 1 pairs" in done.stderr and "same group: " in done.stderr
    allowed = run("probe", tmp_path / "f.h5", "--allow-overlap", "--json")
    assert allowed.exit_code == 0, allowed.output
    (split,) = json.loads(allowed.stdout)["splits"]
    assert [overlap["kind"] for overlap in split["overlaps"]] == ["same group"]


def test_mistakes_are_one_line_and_exit_2(features: FeatureSet, tmp_path: Path) -> None:
    file = tmp_path / "f.h5"
    features.save(file)
    replace(features, labels=np.full(24, -1, np.int32)).save(tmp_path / "unlabelled.h5")
    (tmp_path / "not.json").write_text("{}")
    cases = {
        "no split 'val' among these features": ["probe", file, "--test", "val"],
        "no split 'x/train' among these": ["knn", file, "--split", "x"],
        "--split x names both splits": ["knn", file, "--split", "x", "--test", "test"],
        "of the training videos have no label": ["probe", tmp_path / "unlabelled.h5"],
        "name its videos too": ["probe", small_checkpoint()],
        "--random-weights: the features of": ["probe", file, "--random-weights"],
        "--stride: the features of": ["knn", file, file, "--stride", 2],
        "index.h5: an index or pack of videos": ["knn", small_index_file(), small_checkpoint()],
        "no such run folder": ["probe", tmp_path / "none", small_index_file()],
        "the index has no split 'val'": [
            *("probe", small_checkpoint(), small_index_file(), "--test", "val")
        ],
        "JSON, but no result": ["table", tmp_path / "not.json"],
        "no result yet": ["table", tmp_path],
    }
    for message, arguments in cases.items():
        done = run(*arguments)
        assert done.exit_code == 2, message
        assert message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
