"""Compile kernels for GPUs that are not here, and read what they cost: registers, spills, loops.

Launches are recorded, not written down: the launchers run on CPU tensors with kernels that only
record how they are called, so what is compiled is what they launch on a GPU. Needs triton and its
ptxas, but no GPU. Do not import it with TRITON_INTERPRET=1: such kernels cannot be compiled.
"""

import ast
import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.language import constexpr
from triton.runtime.jit import JITFunction

from bench.parts.kernels import machine_code
from fastdual.kernels.contrastive import triton_backward

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
    torch.int8: "i8",
    torch.uint8: "u8",
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
        names = ("BLOCK_OWN", "BLOCK_OTHER", "BLOCK_D", "PARTS", "ROWS", "BLOCK", "TILE")
        return " ".join(f"{name}={size}" for name in names if (size := self.constant(name)))

    @property
    def logits(self) -> int:
        """Return how many logits a tile of the contrastive softmax has; 0 of another kernel."""
        own, other = (self.constant(f"BLOCK_{name}") for name in ("OWN", "OTHER"))
        return own * other if own and other else 0

    @property
    def multiply_adds(self) -> int:
        """Return those of the products of a tile: in the backward, logits and one gradient."""
        products = 2 if "backward" in self.name else 1
        half = any(name in str(self.signature) for name in ("bf16", "fp16"))
        return products * self.logits * self.constant("D") if self.logits and half else 0

    def constant(self, name: str) -> int:
        """Return a constant argument of the kernel, 0 if it has none of that name."""
        at = list(self.signature).index(name) if name in self.signature else -1
        return int(self.constants.get((at,), 0))

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
    loop: machine_code.Loop
    replication: int  # how many warps work out the same part of a product
    logits: int  # of one tile; 0 where a kernel has none
    multiply_adds: int  # of one tile

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

    @property
    def instructions_per_logit(self) -> float:
        """Return how many instructions of a thread a logit takes in the inner loop."""
        return self.loop.instructions * 32 * self.num_warps / max(self.logits, 1)

    @property
    def peak_shares(self) -> tuple[float, float]:
        """Return machine_code.peak_shares of the inner loop; 0 where it has no 16-bit products."""
        if self.loop.matrix == "none" or not self.multiply_adds:
            return 0.0, 0.0
        return machine_code.peak_shares(
            self.loop,
            architecture=self.architecture,
            num_warps=self.num_warps,
            multiply_adds=self.multiply_adds,
        )


@contextmanager
def recorded_launches(architecture: int) -> Iterator[list[Launch]]:
    """Record what would be launched there; outputs keep whatever was in their memory."""
    launches: list[Launch] = []
    run, capability_of = JITFunction.run, triton_backward.capability_of
    triton_backward.capability_of = lambda device: architecture // 10

    def record(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        launches.append(_describe(kernel, args, grid, options))

    JITFunction.run = record
    try:
        yield launches
    finally:
        JITFunction.run = run
        triton_backward.capability_of = capability_of


def _describe(kernel: Any, args: tuple[Any, ...], grid: Any, options: dict[str, Any]) -> Launch:
    compile_options = {
        "num_warps": options.pop("num_warps", 4),
        "num_stages": options.pop("num_stages", 3),
    }
    max_registers = options.pop("maxnreg", None)
    assert options.pop("enable_fp_fusion"), "bits would depend on the version of Triton"
    values = dict(zip(kernel.arg_names, args, strict=False)) | options
    launch = Launch(kernel, tuple(grid), {}, {}, {}, **compile_options, max_registers=max_registers)
    for at, parameter in enumerate(kernel.params):
        launch.signature[parameter.name] = _specialise(
            values[parameter.name], (at,), launch, constant=parameter.is_constexpr
        )
    return launch


def _specialise(value: Any, at: tuple[int, ...], launch: Launch, *, constant: bool) -> Any:
    """Return the type of an argument, and note in the launch what Triton knows of its value.

    None and 1 are constants, multiples of 16 are known as such; a tuple is one of its items.
    """
    if constant or value is None or (type(value) is int and value == 1):
        launch.constants[at] = value
        return "constexpr"
    if isinstance(value, tuple):
        items = (
            _specialise(item, (*at, number), launch, constant=False)
            for number, item in enumerate(value)
        )
        return type(value)(*items)
    if isinstance(value, Tensor) or (type(value) is int and value % 16 == 0):
        launch.attributes[at] = [["tt.divisibility", 16]]
    return _type_name(value)


def _type_name(value: Any) -> str:
    if isinstance(value, Tensor):
        return "*" + _TYPE_NAMES[value.dtype]
    if isinstance(value, float):
        return "fp32"
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def compile_launch(launch: Launch, architecture: int) -> Usage:
    """Compile one launch for sm_<architecture> down to machine code and read what it needs."""
    source = ASTSource(launch.kernel, launch.signature, launch.constants, launch.attributes)
    options = {
        "num_warps": launch.num_warps,
        "num_stages": launch.num_stages,
        "maxnreg": launch.max_registers,
    }
    compiled = triton.compile(
        source,
        target=GPUTarget("cuda", architecture, 32),
        options=options | {"enable_fp_fusion": True},
    )
    cubin = compiled.asm["cubin"]
    table = machine_code.disassemble(cubin, "cuobjdump", "--dump-resource-usage").splitlines()[-1]
    resources = dict(re.findall(r"(\w+):(\d+)", table))
    return Usage(
        architecture=architecture,
        registers=int(resources["REG"]),
        spilled_bytes=int(resources["STACK"]) + int(resources["LOCAL"]),
        shared_bytes=int(compiled.metadata.shared),
        num_warps=launch.num_warps,
        loop=machine_code.read_loop(machine_code.disassemble(cubin, "nvdisasm", "-c")),
        replication=machine_code.replication(compiled.asm["ttgir"]),
        logits=launch.logits,
        multiply_adds=launch.multiply_adds,
    )
