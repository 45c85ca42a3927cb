"""The wheel, installed outside the checkout: all of it is there, and it runs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "fastdual", "kernels", "loaders")


def run(*command: object, **options: object) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, timeout=300, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What the wheel is built from, and where it is installed; nothing is downloaded."""
    sources = tmp_path_factory.mktemp("sources")
    ignored = shutil.ignore_patterns("__pycache__")
    for name in SOURCES:
        if (CHECKOUT / name).is_dir():
            shutil.copytree(CHECKOUT / name, sources / name, ignore=ignored)
        else:
            shutil.copy(CHECKOUT / name, sources / name)
    wheels = tmp_path_factory.mktemp("wheels")
    quiet = ("--no-deps", "--no-index", "--disable-pip-version-check")
    run("-m", "pip", "wheel", *quiet, "--no-build-isolation", "-w", wheels, sources)
    (wheel,) = wheels.glob("fastdual_video-*.whl")
    target = tmp_path_factory.mktemp("site")
    run("-m", "pip", "install", *quiet, "--target", target, wheel)
    return sources, target


def in_wheel(installed: Path, *command: object) -> str:
    environment = os.environ | {"PYTHONPATH": str(installed)}
    return run(*command, cwd=installed.parent, env=environment)


def test_wheel_holds_every_module_and_file(folders: tuple[Path, Path]) -> None:
    sources, installed = folders
    for source, target in (("fastdual", ""), ("kernels", "kernels"), ("loaders", "loaders")):
        for path in (sources / source).rglob("*"):
            if path.is_file():
                place = installed / "fastdual" / target / path.relative_to(sources / source)
                assert place.read_bytes() == path.read_bytes()
    assert not (installed / "tests").exists() and not (installed / "kernels").exists()


def test_installed_wheel_runs(folders: tuple[Path, Path]) -> None:
    _, installed = folders
    where = in_wheel(installed, "-c", "import fastdual.kernels as k; print(k.__file__)")
    assert Path(where.strip()).is_relative_to(installed)
    assert "pretrain" in in_wheel(installed, "-m", "fastdual", "--help")
    loss = "import fastdual.losses as l, torch; x = torch.eye(4); print(l.NTXentLoss()(x, x))"
    assert in_wheel(installed, "-c", loss).startswith("tensor(")
    folder = installed.parent / "demo"
    scenes = ("--train-scenes", "1", "--test-scenes", "1", "--frames", "12")
    in_wheel(installed, "-m", "fastdual", "demo", folder, *scenes)
    assert len([*folder.rglob("*.mp4"), *folder.rglob("*.webm")]) == 16
    run_folder = installed.parent / "run"
    quick = ("--epochs", "2", "--batch-size", "8", "--set", "data.num_workers=1")
    command = ("pretrain", folder / "videos.csv", "--recipe", "tiny", *quick)
    shown = in_wheel(installed, installed / "bin" / "fastdual", *command, "--run", run_folder)
    assert shown.startswith("checkpoint  ")
    assert list((run_folder / "checkpoints").glob("step-*.pt"))
