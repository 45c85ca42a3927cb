"""Every benchmark runs as a module and as a file, from the project's root and from anywhere."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT

SCRIPTS = sorted(path.stem for path in (PROJECT / "bench").glob("*.py") if path.stem != "__init__")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds fastdual as if it were installed, and nothing of bench."""
    folder = tmp_path_factory.mktemp("installed")
    (folder / "fastdual").mkdir()
    parts = [*(PROJECT / "fastdual").iterdir(), PROJECT / "kernels", PROJECT / "loaders"]
    for part in parts:
        if not (folder / "fastdual" / part.name).exists():
            (folder / "fastdual" / part.name).symlink_to(part)
    return folder


def explain(*arguments: str | Path, cwd: Path, path: Path) -> str:
    """What a command prints for --help."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments), "--help"],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment | {"PYTHONPATH": str(path)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_benchmark_runs_as_a_file(name: str, installed: Path) -> None:
    said = explain(Path("bench") / f"{name}.py", cwd=PROJECT, path=installed)
    assert "--out" in said or name == "readme"


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_benchmark_runs_as_a_module(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"bench.{name}", "--help"])
    monkeypatch.delitem(sys.modules, f"bench.{name}", raising=False)
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module(f"bench.{name}", run_name="__main__")
    assert "--help" in capsys.readouterr().out


def test_a_checkout_on_the_path_is_enough(tmp_path: Path) -> None:
    for command in (["-m", "bench.order"], [PROJECT / "bench" / "order.py"]):
        assert "--out" in explain(*command, cwd=tmp_path, path=PROJECT)
