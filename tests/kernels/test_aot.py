"""The kernels compiled for GPUs that are not here: no spills, and shared memory within the chip."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

TABLE = Path(__file__).resolve().parents[2] / "bench" / "results" / "kernels_aot.csv"
# Architecture and cases that are compiled anew; all of them are in the table, made by
# bench.kernels_aot.
ARCHITECTURES = (80, 90, 100)

pytest.importorskip("triton", reason="Triton is not installed, so there is nothing to compile")
pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="interpreted kernels cannot be compiled"
)


def spills_allowed(case: str) -> bool:
    """Past D = 256 a few registers may spill; up to it none may."""
    return "D=1024" in case


def read_table() -> list[dict[str, str]]:
    with TABLE.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def cases() -> list[tuple[str, object]]:
    from fastdual.kernels import aot

    return list(aot.table_cases())


def test_table_lists_every_kernel_and_tile(cases) -> None:
    """Whoever changes a tile or a kernel's arguments makes the table anew."""
    listed = {(row["kernel"], row["case"], row["blocks"], row["num_warps"]) for row in read_table()}
    current = {(launch.name, case, launch.blocks, str(launch.num_warps)) for case, launch in cases}
    assert listed == current, "run python -m bench.kernels_aot"


def test_table_shows_no_spill_and_shared_memory_within_the_chip() -> None:
    from fastdual.kernels import aot

    for row in read_table():
        architecture = int(row["architecture"].removeprefix("sm_"))
        assert int(row["spilled_bytes"]) == 0 or spills_allowed(row["case"]), row
        assert int(row["shared_bytes"]) <= aot.SHARED_LIMITS[architecture], row
        assert int(row["registers"]) <= aot.MAX_REGISTERS, row


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    "case",
    [
        "bf16 D=128 N=16384 M=16384 plain",
        "bf16 D=128 N=128 M=128 all options",
        "bf16 D=256 N=16384 M=16384 all options",
        "fp16 D=256 N=64 M=16448 plain",
        "fp32 D=128 N=128 M=128 all options",
        "bf16 D=64 B=64 S=16",
    ],
)
def test_kernels_compile_without_spills(cases, case: str, architecture: int) -> None:
    from fastdual.kernels import aot

    launches = [launch for name, launch in cases if name == case]
    assert launches
    for launch in launches:
        usage = aot.compile_launch(launch, architecture)
        assert usage.local_bytes == 0, f"{launch.name} spills {usage.local_bytes} bytes"
        assert usage.shared_bytes <= aot.SHARED_LIMITS[architecture]
        assert 1 <= usage.blocks_per_multiprocessor <= 32


def test_bench_command_explains_itself() -> None:
    command = [sys.executable, "-m", "bench.kernels_aot", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=TABLE.parents[2])
    assert "without a GPU" in " ".join(done.stdout.split())
