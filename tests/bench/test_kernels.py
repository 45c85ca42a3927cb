"""The kernels compiled for GPUs that are not here: no spills, and shared memory within the chip."""

import csv
import importlib.util
import os
from pathlib import Path

import pytest

triton = pytest.importorskip(
    "triton", reason="Triton is not installed, so there is nothing to compile"
)
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("interpreted kernels cannot be compiled", allow_module_level=True)

from bench import kernels as bench_kernels  # noqa: E402
from bench.kernels import TABLE, all_cases, costs_of  # noqa: E402
from bench.parts.kernels import compile as aot  # noqa: E402

# Of a default NT-Xent at D = 128 in bf16 on sm_90: instructions of a thread per logit, barriers
# per tile, what a tile of negatives alone may take. A loop that does its work twice is far above.
BUDGETS = {"forward_kernel": (13.0, 4), "backward_kernel": (17.0, 4)}


def read_table() -> list[dict[str, str]]:
    with TABLE.open(newline="") as file:
        return list(csv.DictReader(file))


def test_table_is_of_the_kernels_as_they_are() -> None:
    """Whoever changes a kernel's code, its arguments or a tile makes the table anew."""
    listed = [
        (row["case"], row["kernel"], row["architecture"], row["digest"]) for row in read_table()
    ]
    current = [
        (case, launch.name, f"sm_{architecture}", launch.digest)
        for case, launch, architecture in all_cases()
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


def test_digest_is_of_the_launch_too() -> None:
    _, launch, _ = all_cases()[0]
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


def test_table_keeps_rows_of_unchanged_launches(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Two of three rows are kept, under the names of today; the one of another code is compiled."""
    small = [case for case in all_cases() if case[1].name == "segment_sums_kernel"][:3]
    monkeypatch.setattr(bench_kernels, "all_cases", lambda: small)
    wanted = {(launch.digest, f"sm_{architecture}") for _, launch, architecture in small}
    old = [row for row in read_table() if (row["digest"], row["architecture"]) in wanted]
    assert len(old) == 3
    version = old[0]["triton"]
    stale = [row | {"case": "an old name", "registers": "1"} for row in old]
    stale[-1]["digest"] = "of other code"
    made = bench_kernels.table_rows(bench_kernels.known_costs(stale, version), jobs=1)
    assert "1 of 3 compiled" in capsys.readouterr().out
    assert [row["case"] for row in made] == [row["case"] for row in old]
    assert [row["registers"] for row in made[:2]] == ["1", "1"]
    # Another Triton, as that of the lowest versions is, compiles the same launches to other costs.
    same = {*old[0]} - (
        set() if version == triton.__version__ else {*bench_kernels.COSTS, "triton"}
    )
    assert {name: str(made[2][name]) for name in same} == {name: old[2][name] for name in same}
    assert bench_kernels.known_costs(stale, "another Triton") == {}
    without = [{name: row[name] for name in row if name != "instructions"} for row in stale]
    assert bench_kernels.known_costs(without, version) == {}


def test_table_shows_no_spill_and_shared_memory_within_the_chip() -> None:
    for row in read_table():
        architecture = int(row["architecture"].removeprefix("sm_"))
        assert int(row["spilled_bytes"]) == 0, row
        assert int(row["shared_bytes"]) <= aot.SHARED_LIMITS[architecture], row
        assert int(row["registers"]) <= aot.MAX_REGISTERS, row


def test_no_two_warps_do_the_same_product_and_large_tiles_take_the_fastest_instruction() -> None:
    kinds = {"sm_80": "mma.sync", "sm_90": "wgmma", "sm_100": "tcgen05"}
    seen = set()
    for row in read_table():
        if row["kernel"] not in BUDGETS or row["case"].startswith("fp32"):
            continue
        assert int(row["replication"]) == 1, row
        # Of more rows than a tile of 32; the backward of D = 256 has no room for 64 rows.
        if "N=16384" in row["case"] and "D=256" not in row["case"]:
            seen.add(row["architecture"])
            assert row["matrix"] == kinds[row["architecture"]], row
    assert seen == set(kinds)


def test_inner_loops_keep_their_budgets() -> None:
    rows = {
        row["kernel"]: row
        for row in read_table()
        if row["case"] == "bf16 D=128 N=16384 M=16384 NT-Xent" and row["architecture"] == "sm_90"
    }
    for kernel, (instructions, barriers) in BUDGETS.items():
        assert 0 < float(rows[kernel]["instructions_per_logit"]) <= instructions, rows[kernel]
        assert int(rows[kernel]["barriers"]) <= barriers, rows[kernel]
        assert rows[kernel]["estimated_peak"], rows[kernel]


@pytest.mark.parametrize("kernel", BUDGETS)
def test_compiled_now_it_is_what_the_table_says(kernel: str) -> None:
    """The default NT-Xent on sm_90: the table is of this compiler and these kernels."""
    name = "bf16 D=128 N=16384 M=16384 NT-Xent"
    (launch,) = (
        launch
        for case, launch, architecture in all_cases()
        if (case, launch.name, architecture) == (name, kernel, 90)
    )
    costs = {key: str(value) for key, value in costs_of(aot.compile_launch(launch, 90)).items()}
    (row,) = (
        row
        for row in read_table()
        if (row["case"], row["kernel"], row["architecture"]) == (name, kernel, "sm_90")
    )
    if row["triton"] == costs["triton"]:
        assert costs.items() <= row.items()
    assert costs["spilled_bytes"] == "0"  # under every Triton allowed
    assert costs["replication"] == "1"
    assert float(costs["instructions_per_logit"]) <= BUDGETS[kernel][0]
