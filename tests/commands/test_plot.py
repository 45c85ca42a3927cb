"""`fastdual plot` as it is typed."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fastdual.cli import cli
from tests.evaluate.small import small_checkpoint, small_index_file
from tests.evaluate.test_features import feature_set
from tests.report.logs import write_log

QUICK = ["--clips-per-video", "1", "--workers", "1", "--device", "cpu"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["plot", *map(str, arguments)])


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = write_log(tmp_path / "first", 5)
    (folder / "checkpoints").mkdir()
    shutil.copy(small_checkpoint(), folder / "checkpoints")
    return folder


def test_curves_go_into_the_runs_own_folder(run_folder: Path) -> None:
    done = run(run_folder)
    assert done.exit_code == 0, done.output
    assert done.stdout.split() == [str(run_folder / "plots" / "training.png")]
    assert (run_folder / "plots" / "training.png").read_bytes()[1:4] == b"PNG"
    assert f"next        fastdual report {run_folder}\n" in done.stderr


def test_data_adds_the_map_and_the_segments(run_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "pictures"
    done = run(run_folder, "-o", output, "--data", small_index_file(), *QUICK)
    assert done.exit_code == 0, done.output
    assert f"next        fastdual report {run_folder} {small_index_file()}\n" in done.stderr
    names = ["training.png", "first-map.png", "first-segments.png"]
    assert done.stdout.split() == [str(output / name) for name in names]
    assert sorted(path.name for path in output.iterdir()) == sorted(names)


def test_features_are_drawn_beside_their_file(run_folder: Path, tmp_path: Path) -> None:
    made = replace(feature_set(20), settings={"backbone": "tiny"})
    made.save(tmp_path / "some.h5")
    done = run(tmp_path / "some.h5", run_folder)
    assert done.exit_code == 0, done.output
    names = ["training.png", "some-map.png"]
    assert done.stdout.split() == [str(tmp_path / "plots" / name) for name in names]


def test_mistakes_are_one_line_and_exit_2(run_folder: Path, tmp_path: Path) -> None:
    cases = {
        "it holds no log.jsonl": [tmp_path / "none"],
        "no split 'val'": [run_folder, "--data", small_index_file(), "--split", "val"],
        "none.h5 does not exist": [run_folder, "--data", tmp_path / "none.h5"],
        "Missing argument": [],
    }
    for message, arguments in cases.items():
        done = run(*arguments)
        assert done.exit_code == 2, message
        assert message in done.stderr
        assert "Traceback" not in done.output
