"""Compile kernels for GPUs that are not here, and read what they cost: registers, spills, memory.

Launches are recorded, not written down: the launchers run on CPU tensors with kernels that only
record how they are called, so what is compiled is what they launch on a GPU. Needs triton and its
ptxas, but no GPU. Do not import it with TRITON_INTERPRET=1: such kernels cannot be compiled.
"""

import ast
import functools
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.language import constexpr
from triton.runtime.jit import JITFunction

# Limits of a thread block's shared memory, in bytes, and of a thread's registers.
SHARED_LIMITS = {80: 166_912, 90: 232_448, 100: 232_448}
MAX_REGISTERS = 255

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
        """Return the block sizes, as in BLOCK_OWN=128 BLOCK_OTHER=64."""
        named = zip(self.signature, range(len(self.signature)), strict=True)
        sizes = {name: self.constants.get((at,)) for name, at in named}
        return " ".join(f"{k}={v}" for k, v in sizes.items() if k.startswith(("BLOCK", "ROWS")))

    @property
    def digest(self) -> str:
        """Return a digest of all that determines the machine code, except Triton itself."""
        return sha256(repr((source_of(self.kernel), *self[2:])).encode()).hexdigest()[:16]


@functools.cache
def source_of(kernel: Any) -> str:
    """Return the code of a kernel and of every function and constant of ours that it names.

    Comments, docstrings and line numbers are left out; Triton's own key of a kernel has the latter.
    """
    code: dict[str, str] = {}
    waiting = [(kernel.fn.__name__, kernel)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, constexpr):
            code[name] = repr(value.value)
        if not isinstance(value, JITFunction) or name in code:
            continue
        tree = value.parse()
        if ast.get_docstring(tree.body[0]) is not None:
            del tree.body[0].body[0]
        code[name] = ast.unparse(tree)
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        waiting += [(found, value.fn.__globals__.get(found)) for found in sorted(names)]
    return "\n".join(f"{name}: {text}" for name, text in sorted(code.items()))


class Usage(NamedTuple):
    """What one compiled launch needs of an architecture."""

    architecture: int  # 90 is sm_90
    registers: int  # per thread
    spilled_bytes: int  # per thread: its local memory
    shared_bytes: int  # per thread block
    num_warps: int
    num_stages: int

    @property
    def blocks_per_multiprocessor(self) -> int:
        """Return how many thread blocks fit a multiprocessor at the same time."""
        threads = 32 * self.num_warps
        # A warp gets registers in units of 256, out of 64 Ki; a block takes 1 KiB of shared memory
        # for itself.
        warp_registers = -(-self.registers * 32 // 256) * 256
        by_registers = 65_536 // (warp_registers * self.num_warps)
        by_shared = (SHARED_LIMITS[self.architecture] + 1024) // (self.shared_bytes + 1024)
        return min(by_registers, by_shared, 2048 // threads, 32)


@contextmanager
def recorded_launches() -> Iterator[list[Launch]]:
    """Record launches instead of running them; outputs keep whatever was in their memory."""
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
        # Triton specialises so: None and 1 are constants, multiples of 16 are known as such.
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
        spilled_bytes=int(table["STACK"]) + int(table["LOCAL"]),
        shared_bytes=int(compiled.metadata.shared),
        num_warps=launch.num_warps,
        num_stages=launch.num_stages,
    )


def _resource_table(cubin: bytes) -> dict[str, str]:
    """Return REG, STACK, SHARED, LOCAL ... of the only kernel in a cubin."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        command = [str(tool), "--dump-resource-usage", str(path)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return dict(re.findall(r"(\w+):(\d+)", printed.splitlines()[-1]))
