"""`make bench` runs every benchmark that a machine without a GPU can finish, and says which not."""

import re

from tests.conftest import PROJECT

# What else can be run in bench/, and why `make bench` does not.
NOT_BENCHMARKS = {
    "gpu_check": "make gpu-check",
    "gpu_bundle": "makes what gpu_check takes along",
    "kernels": "compiles a table for GPUs, times nothing",
    "mutants": "judges the tests, times nothing",
}
TAKE_LONG = {"method", "packs", "soak"}


def recipe(target: str) -> str:
    text = (PROJECT / "Makefile").read_text()
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", text, flags=re.M)
    assert found is not None
    return found[1]


def test_every_benchmark_is_run_by_make_or_named_as_too_long() -> None:
    files = (PROJECT / "bench").glob("*.py")
    scripts = {file.stem for file in files if 'if __name__ == "__main__"' in file.read_text()}
    run = set(re.findall(r"-m bench\.(\w+)", recipe("bench")))
    assert run == scripts - set(NOT_BENCHMARKS) - TAKE_LONG
    assert set(re.findall(r"-m bench\.(\w+)", recipe("help"))) == TAKE_LONG
