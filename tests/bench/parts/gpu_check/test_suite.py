"""Tests as rows: what passed, failed, was skipped with its reason, and what was not collected."""

import json
import subprocess
import sys
from pathlib import Path

from tests.conftest import PROJECT

TESTS = """
import pytest


def test_right():
    pass


def test_wrong():
    raise ValueError("it is wrong")


@pytest.mark.skip(reason="needs DALI")
def test_without():
    pass


@pytest.fixture
def broken():
    raise OSError("no fixture")


def test_not_set_up(broken):
    pass
"""


def test_every_test_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_never.py").write_text("import no_such_module")
    command = [sys.executable, "-m", "bench.parts.gpu_check.suite", "--out", str(tmp_path / "rows")]
    command += ["--paths", str(tmp_path), "--marker", "", "--processes", "1"]
    subprocess.run(command, cwd=PROJECT, capture_output=True, check=False)
    rows = json.loads((tmp_path / "rows.json").read_text())
    found = {row["test"].rpartition("::")[2]: (row["outcome"], row["note"]) for row in rows}
    assert found.pop(next(name for name in found if "never" in name))[0] == "not collected"
    assert found["test_right"] == ("passed", "")
    assert found["test_wrong"][0] == "failed" and "it is wrong" in found["test_wrong"][1]
    assert found["test_not_set_up"][0] == "failed" and "no fixture" in found["test_not_set_up"][1]
    assert found["test_without"] == ("skipped", "needs DALI")
    (tmp_path / "test_never.py").unlink()
    (tmp_path / "test_some.py").write_text(TESTS.replace('raise ValueError("it is wrong")', "pass"))
    said = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False).stdout
    assert "1 passed, 1 skipped, 1 deselected, 1 error" in said
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["outcome"] for row in rows].count("passed") == 2
