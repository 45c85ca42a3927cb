"""Compile kernels for GPUs that are not here, and read what they cost: registers, spills, memory.

The launches are recorded, not written down: the launchers run on CPU tensors with kernels that only
note how they are called, so whatever is launched in earnest is what is compiled. Needs triton and
its ptxas, and no GPU. Not to be imported with TRITON_INTERPRET=1, which makes kernels that cannot
be compiled.
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

    @property
    def digest(self) -> str:
        """Of all that the machine code follows from, the kernel's source included; not Triton's."""
        return sha256(repr((source_of(self.kernel), *self[2:])).encode()).hexdigest()[:16]


@functools.cache
def source_of(kernel: Any) -> str:
    """Code of a kernel, then of every function and constant that it names; not Triton's own.

    Comments and docstrings are left out, and so is the place in the file, which Triton's own key
    of a kernel has.
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
