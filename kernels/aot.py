"""Compile kernels for GPUs that are not here, and read what they cost: registers, spills, memory.

The launches are recorded, not written down: the launchers run on CPU tensors with kernels that only
note how they are called, so whatever is launched in earnest is what is compiled. Needs triton and
its ptxas, and no GPU. Not to be imported with TRITON_INTERPRET=1, which makes kernels that cannot
be compiled.
"""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

# Most shared memory that a thread block may have, in bytes.
SHARED_LIMITS = {80: 166_912, 90: 232_448, 100: 232_448}
MAX_REGISTERS = 255  # of a thread

_TYPE_NAMES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float64: "fp64",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.bool: "i1",
}


class Launch(NamedTuple):
    """One recorded launch: enough to compile it."""

    kernel: Any
    grid: tuple[int, ...]
    signature: dict[str, str]
    constants: dict[tuple[int, ...], Any]
    attributes: dict[tuple[int, ...], list[list[Any]]]
    num_warps: int
    num_stages: int
    max_registers: int | None

    @property
    def name(self) -> str:
        return str(self.kernel.fn.__name__).strip("_")

    @property
    def blocks(self) -> str:
        """Block sizes, as in BLOCK_OWN=128 BLOCK_OTHER=64."""
        named = zip(self.signature, range(len(self.signature)), strict=True)
        sizes = {name: self.constants.get((at,)) for name, at in named}
        return " ".join(f"{k}={v}" for k, v in sizes.items() if k.startswith(("BLOCK", "ROWS")))


class Usage(NamedTuple):
    """What one compiled launch needs of an architecture."""

    architecture: int  # 90 is sm_90
    registers: int  # of a thread
    local_bytes: int  # of a thread: spilled registers, mostly
    shared_bytes: int  # of a thread block
    num_warps: int
    num_stages: int

    @property
    def blocks_per_multiprocessor(self) -> int:
        """Thread blocks that fit a multiprocessor at a time."""
        threads = 32 * self.num_warps
        # 64 Ki registers, handed out to a warp in units of 256; a block takes 1 KiB of shared
        # memory more.
        warp_registers = -(-self.registers * 32 // 256) * 256
        by_registers = 65_536 // (warp_registers * self.num_warps)
        by_shared = (SHARED_LIMITS[self.architecture] + 1024) // (self.shared_bytes + 1024)
        return min(by_registers, by_shared, 2048 // threads, 32)


@contextmanager
def recorded_launches() -> Iterator[list[Launch]]:
    """Within it launches are noted and nothing runs: outputs keep whatever was in their memory."""
    launches: list[Launch] = []
    run = JITFunction.run

    def record(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        launches.append(_describe(kernel, args, grid, options))

    JITFunction.run = record
    try:
        yield launches
    finally:
        JITFunction.run = run


def _describe(kernel: Any, args: tuple[Any, ...], grid: Any, options: dict[str, Any]) -> Launch:
    compile_options = {
        "num_warps": options.pop("num_warps", 4),
        "num_stages": options.pop("num_stages", 3),
        "max_registers": options.pop("maxnreg", None),
    }
    values = dict(zip(kernel.arg_names, args, strict=False)) | options
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for at, parameter in enumerate(kernel.params):
        value = values[parameter.name]
        # As Triton specialises: None and 1 are constants, multiples of 16 are known to be.
        if parameter.is_constexpr or value is None or (type(value) is int and value == 1):
            signature[parameter.name] = "constexpr"
            constants[(at,)] = value
            continue
        signature[parameter.name] = _type_name(value)
        if isinstance(value, Tensor) or (type(value) is int and value % 16 == 0):
            attributes[(at,)] = [["tt.divisibility", 16]]
    return Launch(kernel, tuple(grid), signature, constants, attributes, **compile_options)


def _type_name(value: Any) -> str:
    if isinstance(value, Tensor):
        return "*" + _TYPE_NAMES[value.dtype]
    if isinstance(value, float):
        return "fp32"
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def compile_launch(launch: Launch, architecture: int) -> Usage:
    """Compile one launch for sm_<architecture> down to machine code and read its resource table."""
    source = ASTSource(launch.kernel, launch.signature, launch.constants, launch.attributes)
    compiled = triton.compile(
        source,
        target=GPUTarget("cuda", architecture, 32),
        options={
            "num_warps": launch.num_warps,
            "num_stages": launch.num_stages,
            "maxnreg": launch.max_registers,
        },
    )
    table = _resource_table(compiled.asm["cubin"])
    return Usage(
        architecture=architecture,
        registers=int(table["REG"]),
        local_bytes=int(table["STACK"]) + int(table["LOCAL"]),
        shared_bytes=int(compiled.metadata.shared),
        num_warps=launch.num_warps,
        num_stages=launch.num_stages,
    )


def _resource_table(cubin: bytes) -> dict[str, str]:
    """REG, STACK, SHARED, LOCAL ... of the only kernel in a cubin."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        command = [str(tool), "--dump-resource-usage", str(path)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return dict(re.findall(r"(\w+):(\d+)", printed.splitlines()[-1]))


def contrastive_launches(
    *,
    dtype: torch.dtype,
    dim: int,
    num_rows: int,
    num_columns: int | None = None,
    heavy: bool = False,
    placed: bool = False,
) -> list[Launch]:
    """Launches of forward and backward, gradients of everything.

    Without num_columns the rows are their own candidates; `placed`: with ids and groups by their
    place. `heavy` has all options that cost registers, else there are none of them.
    """
    from fastdual.kernels import contrastive_triton, contrastive_triton_bwd
    from fastdual.kernels.problem import Layout, Problem

    query = torch.empty(num_rows, dim, dtype=dtype)
    ids = torch.empty(num_rows, dtype=torch.int64)
    key = key_ids = None
    if num_columns is not None:
        key = torch.empty(num_columns, dim, dtype=dtype)
        key_ids = torch.empty(num_columns, dtype=torch.int64)
    positives = "mean" if heavy else "sum"
    problem = Problem(
        query, key, ids, key_ids, ids, key_ids, None, 0.07, positives, heavy, "ieee"
    )  # fmt: skip
    if placed:
        # The costliest: ids of samples are read besides, and no run is 1, which would fold away.
        layout = Layout(id_run=2, num_ids=num_rows // 4, group_run=2)
        problem = problem._replace(query_groups=None, is_scale=True, layout=layout)
    with recorded_launches() as launches:
        partials = contrastive_triton.compute_partials(problem, metrics=heavy)
        merged = contrastive_triton.merge_partials(
            partials.fields, positives=positives, reduction="none" if heavy else "mean"
        )
        contrastive_triton_bwd.compute_gradients(
            problem, partials, merged.statistics, merged.loss,
            None if heavy else merged.num_valid, (True, True, heavy), dtype=dtype,
        )  # fmt: skip
    return launches


def rank_launches(*, dtype: torch.dtype, dim: int, num_segments: int) -> list[Launch]:
    """Launches of forward and backward of the shuffle-rank loss."""
    from fastdual.kernels import shuffle_rank_triton

    x = torch.empty(64, num_segments, dim, dtype=dtype)
    arguments = x, x, torch.empty(64, num_segments, dtype=torch.int64), 0.05, 5.0, True
    with recorded_launches() as launches:
        shuffle_rank_triton.launch_fwd(*arguments)
        shuffle_rank_triton.launch_bwd(torch.empty(()), *arguments)
    return launches


def segment_launches(*, dtype: torch.dtype, dim: int, num_segments: int) -> list[Launch]:
    """The launch of the sums over segments."""
    from fastdual.kernels import segment_sums_triton

    x = torch.empty(64, num_segments, dim, dtype=dtype)
    with recorded_launches() as launches:
        segment_sums_triton.launch(x, x)
    return launches


def table_cases() -> Iterator[tuple[str, Launch]]:
    """Every kernel in every tile that the launchers choose, once, named by its first use."""
    names = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
    seen = set()
    for name, launches in _named_launches(names):
        for launch in launches:
            identity = repr((launch.name, *launch[2:]))
            if identity not in seen:
                seen.add(identity)
                yield name, launch


def _named_launches(names: dict[torch.dtype, str]) -> Iterator[tuple[str, list[Launch]]]:
    for dtype, name in names.items():
        for dim in (128, 256, 1024) if dtype == torch.bfloat16 else (128, 256):
            # The paper's batch, a large one, and a queue.
            for num_rows, columns in ((128, None), (16384, None), (64, 16448)):
                for heavy, placed in ((False, False), (True, False), (False, True), (True, True)):
                    if placed and columns is not None:
                        continue
                    launches = contrastive_launches(
                        dtype=dtype, dim=dim, num_rows=num_rows, num_columns=columns,
                        heavy=heavy, placed=placed,
                    )  # fmt: skip
                    options = "all options" if heavy else "plain"
                    options += ", placed" if placed else ""
                    yield f"{name} D={dim} N={num_rows} M={columns or num_rows} {options}", launches
        for num_segments in (2, 16):
            launches = rank_launches(dtype=dtype, dim=64, num_segments=num_segments)
            launches += segment_launches(dtype=dtype, dim=64, num_segments=num_segments)
            yield f"{name} D=64 B=64 S={num_segments}", launches
