"""Without DALI and PyAV everything is imported and collected, and what needs them skips by name."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.packages import missing, need

# Imported at start by the interpreter: what BLOCK names is not installed.
BLOCKER = """
import os
import sys


class Blocker:
    def find_spec(self, name, path=None, target=None):
        for blocked in os.environ["BLOCK"].split(","):
            if name == blocked or name.startswith(blocked + "."):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Blocker())
"""


def run_without(folder: Path, packages: str, *command: str) -> str:
    (folder / "sitecustomize.py").write_text(BLOCKER)
    environment = os.environ | {"BLOCK": packages, "COLUMNS": "200"}
    environment["PYTHONPATH"] = f"{folder}:{PROJECT}"
    environment.pop("FASTDUAL_REQUIRE_PACKAGES", None)
    done = subprocess.run(
        [sys.executable, *command], env=environment, cwd=PROJECT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_test_is_collected_without_either(tmp_path: Path) -> None:
    pytest_command = ("-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "tests")
    said = run_without(tmp_path, "av,nvidia", *pytest_command)
    assert "tests/loaders/test_loader.py::test_the_gpu_shows_what_the_cpu_shows" in said


def test_what_needs_them_skips_by_name(tmp_path: Path) -> None:
    tests = ("tests/loaders/views/test_pipeline.py", "tests/demo/test_encode.py")
    said = run_without(tmp_path, "av,nvidia", "-m", "pytest", "-v", *tests)
    assert "test_the_graph_has_no_random_operator SKIPPED (needs DALI)" in said
    assert "SKIPPED (needs PyAV)" in said
    assert "passed" not in said and "failed" not in said


def test_training_imports_neither(tmp_path: Path) -> None:
    """Not before a graph is built and a video opened."""
    modules = "fastdual.cli, fastdual.commands.pretrain, fastdual.loaders.loader, bench.train"
    run_without(tmp_path, "av,nvidia", "-c", f"import {modules}")


def test_a_package_that_ci_requires_is_not_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTDUAL_REQUIRE_PACKAGES", raising=False)
    assert missing("pytest", "no_such.package") == "no_such.package"
    with pytest.raises(pytest.skip.Exception, match="needs no_such.package"):
        need("no_such.package")
    monkeypatch.setenv("FASTDUAL_REQUIRE_PACKAGES", "1")
    assert missing("no_such.package") == ""
