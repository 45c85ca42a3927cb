"""A backbone of the user's own: every step with it, and no file that can have code run."""

import shutil
from pathlib import Path

import pytest
import torch
from click.testing import Result

import fastdual
from fastdual.errors import InputError
from tests.evaluate.small import small_index_file
from tests.runs import invoke

# What is imported leaves a mark.
MODULE = """
from pathlib import Path
from torch import nn
Path("imported").touch()

def net():
    return nn.Sequential(nn.Conv3d(3, 8, 3, stride=4), nn.BatchNorm3d(8), nn.ReLU())
"""
NAME = "mark_own_nets:net"
NAMED = ("--backbone", NAME)
QUICK = ("--workers", "1", "--device", "cpu", "--clips-per-video", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the module, a run that was trained on it, and its export."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "mark_own_nets.py").write_text(MODULE)
    small = ("--recipe", "tiny", "--epochs", "2", "--device", "cpu", "--set", "data.num_workers=1")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in (
            ["pretrain", str(small_index_file()), "--run", "run", *NAMED, *small],
            ["export", "run", "-o", "x.safetensors", *NAMED],
        ):
            done = invoke(words)
            assert done.exit_code == 0, done.output
    return folder


@pytest.fixture(autouse=True)
def unseen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no module of this name had been imported yet."""
    monkeypatch.chdir(folder)
    monkeypatch.delitem(__import__("sys").modules, "mark_own_nets", raising=False)
    (folder / "imported").unlink(missing_ok=True)


def commands(source: str) -> list[list[str]]:
    data = str(small_index_file())
    return [
        ["embed", source, data, "-o", "f.h5", *QUICK],
        ["embed", source, data, "-o", "f.h5", "--random-weights", *QUICK],
        ["retrieve", source, data, *QUICK],
        ["probe", source, data, *QUICK],
        ["report", source, data, "-o", "r.html", *QUICK],
        ["export", source, "-o", "y.safetensors"],
        ["finetune", source, data, "--run", "ft", "--set", "clip.clips_per_video=1"],
    ]


def refused(done: Result) -> None:
    assert done.exit_code == 2, done.output
    assert f"name it yourself: --backbone {NAME}" in done.stderr
    assert not Path("imported").exists()


@pytest.mark.parametrize("number", range(7))
def test_no_file_has_code_run(number: int) -> None:
    for source in ("run", "x.safetensors"):
        if source == "run" or number != 4:  # a report is of a run
            refused(invoke(commands(source)[number]))


def test_a_run_does_not_go_on_with_code_that_nobody_named(tmp_path: Path) -> None:
    data = str(small_index_file())
    shutil.copytree("run", tmp_path / "run")
    refused(invoke(["pretrain", data, "--run", str(tmp_path / "run"), "--resume"]))
    done = invoke(["pretrain", data, "--run", str(tmp_path / "run"), "--resume", *NAMED])
    assert done.exit_code == 0, done.output


def test_python_asks_too() -> None:
    with pytest.raises(InputError, match="fastdual.load"):
        fastdual.load("run")
    encoder = fastdual.load("run", backbone=NAME)
    assert encoder(torch.zeros(1, 3, 8, 48, 48)).shape == (1, 8)
    with pytest.raises(InputError, match="fastdual.load"):  # it was named for that call alone
        fastdual.load("run")


@pytest.mark.parametrize("number", [0, 1, 5])
def test_named_backbone_is_used(number: int) -> None:
    done = invoke([*commands("run")[number], *NAMED])
    assert done.exit_code == 0, done.output
    assert Path("imported").exists()


def test_named_backbone_is_retrieved_from_its_export() -> None:
    done = invoke([*commands("x.safetensors")[2], *NAMED])
    assert done.exit_code == 0, done.output
    assert invoke([*commands("run")[2], "--backbone", "tiny"]).exit_code == 2
