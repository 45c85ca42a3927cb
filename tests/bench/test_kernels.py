"""The kernels compiled for GPUs that are not here: no spills, and shared memory within the chip."""

import csv
import importlib.util
import os
import re
from pathlib import Path

import pytest

triton = pytest.importorskip(
    "triton", reason="Triton is not installed, so there is nothing to compile"
)
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("interpreted kernels cannot be compiled", allow_module_level=True)

from bench import kernels as bench_kernels  # noqa: E402
from bench.kernels import ARCHITECTURES, TABLE  # noqa: E402
from bench.parts.kernels import compile as aot  # noqa: E402
from bench.parts.kernels.cases import table_cases  # noqa: E402

# Tiles are chosen under the Triton of the table; under 3.6 three launches spill 8 to 32 bytes.
OTHER_TRITON_SPILLS = 32


def spills_allowed(case: str) -> bool:
    """Past D = 256 a few registers may spill; up to it none may."""
    return int(re.search(r"D=(\d+)", case)[1]) > 256


def read_table() -> list[dict[str, str]]:
    with TABLE.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def cases() -> list[tuple[str, object]]:
    return list(table_cases())


def test_table_is_of_the_kernels_as_they_are(cases) -> None:
    """Whoever changes a kernel's code, its arguments or a tile makes the table anew."""
    listed = [
        (row["case"], row["kernel"], row["architecture"], row["digest"]) for row in read_table()
    ]
    current = [
        (case, launch.name, f"sm_{architecture}", launch.digest)
        for case, launch in cases
        for architecture in ARCHITECTURES
    ]
    assert listed == current, "run python -m bench.kernels"


KERNELS = """
import triton
import triton.language as tl

FACTOR = tl.constexpr(2.0)


@triton.jit
def scaled(x):
    return x * FACTOR


@triton.jit
def kernel(x_ptr):
    tl.store(x_ptr, scaled(tl.load(x_ptr)))
"""


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("FACTOR = ", "# Comments and lines above do not count.\nFACTOR = ", True),
        ("def scaled(x):\n", 'def scaled(x):\n    """Nor do docstrings."""\n', True),
        ("constexpr(2.0)", "constexpr(3.0)", False),
        ("x * FACTOR", "x + FACTOR", False),
        ("tl.store(x_ptr, ", "tl.store(x_ptr + 1, ", False),
    ],
)
def test_digest_is_of_the_code_of_a_kernel_and_what_it_calls(
    old: str, new: str, same: bool, tmp_path: Path
) -> None:
    digests = []
    for name, source in (("before", KERNELS), ("after", KERNELS.replace(old, new, 1))):
        path = tmp_path / f"{name}.py"
        path.write_text(source)
        specification = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        launch = aot.Launch(module.kernel, (1,), {"x_ptr": "*fp32"}, {}, {}, 4, 3, None)
        digests.append(launch.digest)
    assert len(set(digests)) == (1 if same else 2)


def test_digest_is_of_the_launch_too(cases) -> None:
    _, launch = cases[0]
    for change in (
        {"num_warps": 16},
        {"num_stages": 9},
        {"max_registers": 24},
        {"signature": launch.signature | {"N": "i64"}},
        {"constants": {}},
        {"attributes": {}},
    ):
        assert launch._replace(**change).digest != launch.digest, change
    assert launch._replace(grid=(99,)).digest == launch.digest


def test_table_keeps_rows_of_unchanged_launches(
    cases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Two of three rows are kept, under the names of today; the one of another code is compiled."""
    small = [case for case in cases if case[1].name == "segment_sums_kernel"][:3]
    monkeypatch.setattr(bench_kernels, "table_cases", lambda: iter(small))
    old = [row for row in read_table() if row["digest"] in {item[1].digest for item in small}]
    assert len(old) == 3 * len(ARCHITECTURES)
    version = old[0]["triton"]
    stale = [row | {"case": "an old name", "registers": "1"} for row in old]
    stale[-1]["digest"] = "of other code"
    made = bench_kernels.table_rows(bench_kernels.known_costs(stale, version), jobs=1)
    assert "1 of 3 launches compiled" in capsys.readouterr().out
    assert [row["case"] for row in made] == [row["case"] for row in old]
    kept, compiled = made[:-3], made[-3:]
    assert {row["registers"] for row in kept} == {"1"}
    # Another Triton, as that of the lowest versions is, compiles the same launches to other costs.
    same = {*old[0]} - (
        set() if version == triton.__version__ else {*bench_kernels.COSTS, "triton"}
    )
    assert [{k: str(row[k]) for k in same} for row in compiled] == [
        {k: row[k] for k in same} for row in old[-3:]
    ]
    assert bench_kernels.known_costs(stale, "another Triton") == {}


def test_table_has_every_kind_of_d() -> None:
    """Also those whose rows do not start at multiples of 16 elements, in every dtype."""
    seen = {tuple(row["case"].split()[:2]) for row in read_table()}
    # Beyond 256 float32 takes the very launches of 256.
    dims = (8, 16, 24, 32, 64, 83, 128, 230, 256)
    assert seen >= {(name, f"D={dim}") for name in ("bf16", "fp16", "fp32") for dim in dims}
    assert seen >= {(name, f"D={dim}") for name in ("bf16", "fp16") for dim in (921, 1024)}


def test_table_shows_no_spill_and_shared_memory_within_the_chip() -> None:
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
        "bf16 D=128 N=128 M=128 all",
        "bf16 D=256 N=16384 M=16384 all",
        "bf16 D=16 N=128 M=128 learned, placed",
        "fp16 D=256 N=64 M=16448 plain",
        "fp32 D=64 N=128 M=128 all, placed",
        "bf16 D=64 B=64 S=16",
        "bf16 D=83 N=128 M=128 all",
        "bf16 D=230 N=128 M=128 all",
        "fp32 D=83 N=128 M=128 all",
    ],
)
def test_kernels_compile_without_spills(cases, case: str, architecture: int) -> None:
    launches = [launch for name, launch in cases if name == case]
    assert launches
    for launch in launches:
        usage = aot.compile_launch(launch, architecture)
        most = 0 if triton.__version__ == read_table()[0]["triton"] else OTHER_TRITON_SPILLS
        assert usage.spilled_bytes <= most, f"{launch.name} spills {usage.spilled_bytes} bytes"
        assert usage.shared_bytes <= aot.SHARED_LIMITS[architecture]
        assert 1 <= usage.blocks_per_multiprocessor <= 32
