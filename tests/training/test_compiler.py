"""A machine without a C compiler: told before the work, in one line, and seen by the doctor."""

from pathlib import Path

import pytest
import torch

from fastdual.config.sections import RunConfig
from fastdual.doctor.machine import check_compiler
from fastdual.errors import InputError
from fastdual.training.compiler import find_compiler, require_compiler
from fastdual.training.execution import choose_execution

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH, empty at first."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def install(tools: Path, name: str) -> None:
    (tools / name).write_text("#!/bin/sh\n")
    (tools / name).chmod(0o755)


def test_a_run_that_compiles_is_refused_without_a_compiler(tools: Path) -> None:
    line = r"run.compile = 'on': .* no g\+\+ on PATH; .* or set run.compile=off"
    with pytest.raises(InputError, match=line):
        choose_execution(RunConfig(device="cpu", compile="on"))
    assert choose_execution(RunConfig(device="cpu")).compile_mode is None
    install(tools, "g++")
    assert choose_execution(RunConfig(device="cpu", compile="on")).compile_mode == "default"


def test_the_compiler_of_each_device_and_the_one_of_the_environment_are_found(
    tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="no clang or gcc or cc on PATH; .* or use --losses eager"):
        require_compiler(GPU, setting="--losses auto", remedy="use --losses eager")
    install(tools, "gcc")
    assert find_compiler(GPU)[0] == str(tools / "gcc")
    assert find_compiler(CPU)[0] is None
    install(tools, "mine")
    monkeypatch.setenv("CXX", "mine -std=c++20")
    assert find_compiler(CPU)[0] == str(tools / "mine")
    monkeypatch.setenv("CC", str(tools / "gone"))
    assert find_compiler(GPU)[0] is None


def test_the_doctor_looks_for_it(tools: Path) -> None:
    for required in (False, True):
        check = check_compiler(required=required)
        assert (check.status, check.failed) == ("unavailable", required)
        assert "apt install build-essential" in check.detail
    install(tools, "gcc")
    assert check_compiler(required=True).status == "ok"
