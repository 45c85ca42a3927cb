"""PyPI's `fastdual` beside ours: told apart at import and by the command line."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT

REMEDY = "pip uninstall fastdual, then install ours again"
FOREIGN = '__version__ = "0.3.1"\n\n\nclass Dual:\n    pass\n'


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of installed packages with ours in it."""
    (tmp_path / "fastdual").mkdir()
    for name in ("__init__.py", "__main__.py"):
        shutil.copy(PROJECT / "fastdual" / name, tmp_path / "fastdual")
    (tmp_path / "fastdual_video-0.1.0.dist-info").mkdir()
    (tmp_path / "fastdual-notes.txt").touch()
    return tmp_path


def python(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True, text=True, timeout=60, cwd=site, env=environment,
    )  # fmt: skip


def test_ours_alone_is_quiet(site: Path) -> None:
    done = python(site, "-W", "error", "-c", "import fastdual; print(fastdual.__file__)")
    assert done.stdout.strip() == str(site / "fastdual" / "__init__.py"), done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("kind", ["fastdual-0.3.1.dist-info", "fastdual-0.3.1-py3.11.egg-info"])
def test_namesake_beside_ours_is_warned_of_in_one_line(site: Path, kind: str) -> None:
    (site / kind).mkdir()
    done = python(site, "-c", "import fastdual; print(fastdual.load.__name__)")
    assert done.returncode == 0 and done.stdout == "load\n"
    (line,) = (line for line in done.stderr.splitlines() if "Warning: " in line)
    assert line.startswith("<string>:1: UserWarning: another distribution called fastdual")
    assert str(site) in line and REMEDY in line


@pytest.mark.parametrize("left", ["the other's", "nothing"])
def test_command_line_names_the_remedy_where_our_package_was_replaced(
    site: Path, left: str
) -> None:
    """Installed after ours, or uninstalled again, which takes ours with it."""
    if left == "nothing":
        (site / "fastdual" / "__init__.py").unlink()
    else:
        (site / "fastdual" / "__init__.py").write_text(FOREIGN)
    done = python(site, "-m", "fastdual", "--version")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("fastdual: ") and REMEDY in line
