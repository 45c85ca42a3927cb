"""`fastdual retrieve` as it is typed: from a run, from one file of features, from two."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from fastdual.cli import cli
from fastdual.evaluate.features import FeatureSet
from fastdual.evaluate.results import read_result
from fastdual.loaders.index import save_index
from tests.evaluate.small import small_checkpoint, small_index, small_index_file

QUICK = ["--clips-per-video", "2", "--workers", "1", "--device", "cpu"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["retrieve", *map(str, arguments)])


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> FeatureSet:
    path = tmp_path_factory.mktemp("features") / "f.h5"
    arguments = [small_checkpoint(), small_index_file(), "-o", path, *QUICK]
    done = CliRunner().invoke(cli, ["embed", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return FeatureSet.load(path)


def test_run_one_file_and_two_files_agree(features: FeatureSet, tmp_path: Path) -> None:
    features.save(tmp_path / "both.h5")
    features.part("train").save(tmp_path / "train.h5")
    features.part("test").save(tmp_path / "test.h5")
    splits = []
    for arguments in (
        [small_checkpoint(), small_index_file(), *QUICK],
        [tmp_path / "both.h5"],
        [tmp_path / "train.h5", tmp_path / "test.h5"],
    ):
        done = run(*arguments, "--json")
        assert done.exit_code == 0, done.output
        (split,) = json.loads(done.stdout)["splits"]
        splits.append(split)
    assert splits[0] == splits[1]
    assert splits[0]["recall"] == splits[2]["recall"]
    assert (splits[0]["num_train"], splits[0]["num_test"]) == (16, 8)
    assert splits[0]["chance"] == 1 / 8
    assert splits[0]["recall"]["10"] is not None
    assert splits[0]["recall"]["20"] is None


def test_videos_without_classes_are_shown_their_nearest(
    features: FeatureSet, tmp_path: Path
) -> None:
    """From a run and its videos as from their features; nothing is held out."""
    index = small_index()
    nameless = {"splits": {}, "labels": np.full_like(index.labels, -1)}
    save_index(replace(index, **nameless), tmp_path / "index.h5")
    replace(features, **nameless).save(tmp_path / "f.h5")
    found = []
    for arguments in ([small_checkpoint(), tmp_path / "index.h5", *QUICK], [tmp_path / "f.h5"]):
        done = run(*arguments, "--json", "-o", tmp_path / "nearest.csv")
        assert done.exit_code == 0, done.output
        assert "neither classes nor splits" in done.stderr
        found.append(json.loads(done.stdout))
        assert len((tmp_path / "nearest.csv").read_text().splitlines()) == 1 + 24 * 5
    assert found[0] == found[1] and len(found[0]) == 24 * 5
    assert all(row["query"] != row["path"] for row in found[0])
    done = run(tmp_path / "f.h5")
    assert done.exit_code == 0 and len(done.stdout.splitlines()) == 5 * 6
    assert (tmp_path / "f-results" / "nearest.csv").exists()
    assert run(tmp_path / "f.h5", "--gallery", "train").exit_code == 2


def test_table_says_which_k_the_gallery_is_too_small_for(
    features: FeatureSet, tmp_path: Path
) -> None:
    features.save(tmp_path / "both.h5")
    done = run(tmp_path / "both.h5")
    assert done.exit_code == 0, done.output
    assert "8 queries (test), 16 gallery videos (train), 8 classes" in done.stdout
    assert "R@20, R@50: more than the 16 gallery videos" in done.stdout
    header, cells = done.stdout.splitlines()[1:3]
    assert header.split() == ["R@1", "R@5", "R@10", "R@20", "R@50"]
    assert cells.split()[3:] == ["-", "-"]


def test_splits_can_be_named(features: FeatureSet, tmp_path: Path) -> None:
    features.save(tmp_path / "both.h5")
    done = run(tmp_path / "both.h5", "--gallery", "test", "--queries", "train", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["splits"][0]["num_train"] == 8


def test_several_splits_are_measured_and_averaged(features: FeatureSet, tmp_path: Path) -> None:
    train, test = features.splits["train"], features.splits["test"]
    splits = {"a/train": train, "a/test": test, "b/train": train, "b/test": test[:4]}
    save_index(replace(small_index(), splits=splits), tmp_path / "ab.h5")
    replace(features, splits=splits).save(tmp_path / "f.h5")
    families = ["--split", "a", "--split", "b", "--json"]
    index = [tmp_path / "ab.h5", "--root", small_index().root, *QUICK]
    results = []
    for arguments in ([small_checkpoint(), *index], [tmp_path / "f.h5"]):
        done = run(*arguments, *families)
        assert done.exit_code == 0, done.output
        results.append(json.loads(done.stdout))
    for result in results:
        assert [split["test"] for split in result["splits"]] == ["a/test", "b/test"]
        values = [split["metrics"]["R@1"]["value"] for split in result["splits"]]
        assert result["mean"]["R@1"] == pytest.approx(np.mean(values))
        assert result["splits"] == results[0]["splits"]
    alone = run(tmp_path / "f.h5", "--split", "b", "--json")
    assert json.loads(alone.stdout)["splits"] == results[0]["splits"][1:]
    shown = run(tmp_path / "f.h5", *families[:-1])
    assert "mean of 2 splits ± deviation  R@1 " in shown.stdout


def test_every_overlap_of_every_pair_of_splits_is_written(
    features: FeatureSet, tmp_path: Path
) -> None:
    train, test = features.splits["train"], features.splits["test"]
    splits = {"a/train": train, "a/test": test[:4], "b/train": train, "b/test": test[4:]}
    groups = ["film" if row in (train[0], test[3], test[7]) else "" for row in range(24)]
    replace(features, splits=splits, groups=tuple(groups)).save(tmp_path / "f.h5")
    pairs = tmp_path / "pairs.csv"
    done = run(tmp_path / "f.h5", "--split", "a", "--split", "b", "--overlaps", pairs)
    assert done.exit_code == 2 and f"all are in {pairs}" in done.stderr
    assert pairs.read_text().splitlines() == [
        "kind,train,test",
        *(f"same group,{features.paths[train[0]]},{features.paths[test[b]]}" for b in (3, 7)),
    ]


def test_mistakes_are_one_line_and_exit_2(features: FeatureSet, tmp_path: Path) -> None:
    features.save(tmp_path / "both.h5")
    replace(features, labels=np.full(24, -1, np.int32)).save(tmp_path / "unlabelled.h5")
    replace(features.part("test"), weights_sha256="0" * 64).save(tmp_path / "other.h5")
    (tmp_path / "cut.h5").write_bytes((tmp_path / "both.h5").read_bytes()[:-10])
    both, checkpoint = tmp_path / "both.h5", small_checkpoint()
    cases = {
        "no split 'val' among these features; splits: test, train": [both, "--queries", "val"],
        "16 of the 16 videos of the gallery have no label": [tmp_path / "unlabelled.h5"],
        "come from two networks": [both, tmp_path / "other.h5"],
        "cut.h5 is truncated or was altered": [tmp_path / "cut.h5"],
        "name its videos too": [checkpoint],
        "not a features file, but": [both, checkpoint],
        "a features file, but": [checkpoint, both],
        "24 videos are in the gallery and among the queries": [both, both],
        "none: no such run folder or checkpoint file": ["none", small_index_file()],
        "the index has no split 'val'": [checkpoint, small_index_file(), "--gallery", "val"],
    }
    for message, arguments in cases.items():
        done = run(*arguments)
        assert done.exit_code == 2, message
        assert message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_result_file_holds_intervals_and_can_be_tabled(
    features: FeatureSet, tmp_path: Path
) -> None:
    features.save(tmp_path / "both.h5")
    done = run(tmp_path / "both.h5", "-o", tmp_path / "r.json", "--json")
    assert done.exit_code == 0, done.output
    result = read_result(tmp_path / "r.json")
    assert result == json.loads(done.stdout)
    assert result["command"].startswith("fastdual retrieve ")
    metrics, recall = (result["splits"][0][name] for name in ("metrics", "recall"))
    assert {name: m["value"] for name, m in metrics.items()} == {
        f"R@{k}": recall[str(k)] for k in (1, 5, 10)
    }
    assert all(m["low"] <= m["value"] <= m["high"] for m in metrics.values())
    table = CliRunner().invoke(cli, ["table", str(tmp_path / "r.json")])
    assert "| R@1 | R@5 | R@10 |" in table.stdout


def test_overlapping_splits_are_refused_unless_told_otherwise(
    features: FeatureSet, tmp_path: Path
) -> None:
    # One scene in the gallery and among the queries: a group that both sides share.
    train, test = features.splits["train"], features.splits["test"]
    groups = list(features.groups)
    groups[test[0]] = groups[train[0]]
    replace(features, groups=tuple(groups)).save(tmp_path / "f.h5")
    index = small_index()
    shared = replace(index, groups=tuple(groups))
    save_index(shared, tmp_path / "shared.h5")
    run_arguments = [small_checkpoint(), tmp_path / "shared.h5", "--root", index.root, *QUICK]
    for arguments in ([tmp_path / "f.h5"], run_arguments):
        done = run(*arguments)
        assert done.exit_code == 2, done.output
        assert f"same group: {features.paths[train[0]]} and" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        output = tmp_path / "r.json"
        done = run(*arguments, "--allow-overlap", "-o", output)
        assert done.exit_code == 0, done.output
        assert "warning: 1 overlaps" in done.stdout
        (overlap,) = read_result(output)["splits"][0]["overlaps"]
        assert overlap["kind"] == "same group"
        table = CliRunner().invoke(cli, ["table", str(output)])
        assert "test (overlaps with train)" in table.stdout
