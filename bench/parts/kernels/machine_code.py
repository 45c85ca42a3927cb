"""What the machine code of a kernel does in its inner loop, read from a disassembly.

The loop is the outermost one that holds matrix instructions, and the way through it is the
shortest: the one of a tile of negatives alone, which nearly every tile is. Times follow from a
model of what a multiprocessor issues, so they are estimates and no measurements.
"""

import heapq
import re
import subprocess
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import triton

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
# Matrix instructions of SASS, and what PTX calls them.
_MATRIX = {"HGMMA": "wgmma", "HMMA": "mma.sync", "UTCHMMA": "tcgen05"}
_SHARED = ("LDS", "STS", "LDSM", "STSM", "LDGSTS")
# Multiply-adds of bf16 on the tensor cores of a multiprocessor in one clock.
_TENSOR_RATE = {80: 1024, 90: 2048, 100: 4096}
_SCHEDULERS, _MUFU_CYCLES = 4, 8  # of a multiprocessor; of one warp's MUFU, at 4 lanes per clock


class Loop(NamedTuple):
    """Instructions of one warp, once through the inner loop on its shortest way."""

    instructions: int
    mufu: int  # exponentials, logarithms, roots
    barriers: int  # at which all warps of a block wait for each other
    shared: int  # loads from and stores to shared memory
    matrix: str  # wgmma, mma.sync, tcgen05 or none


class _Code(NamedTuple):
    names: list[str]  # of each instruction, in full: MUFU.EX2
    next: list[list[int]]  # the instructions that may follow each of them


def disassemble(cubin: bytes, tool: str, *options: str) -> str:
    """Return what one of the assembler's tools prints about a cubin."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        command = [str(_TOOLS / tool), *options, str(path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def read_loop(sass: str) -> Loop:
    """Return the inner loop of a kernel; all 0 where no loop holds a matrix instruction."""
    code = _parse(sass)
    kinds = [_MATRIX.get(name.split(".")[0]) for name in code.names]
    ends = {  # of a loop, by its head: the farthest jump back
        head: at for at, following in enumerate(code.next) for head in following if head <= at
    }
    # A wait for a barrier, too, is left by a jump back; no way leads around it.
    for head, end in sorted(ends.items(), key=lambda loop: loop[0] - loop[1]):
        found = set(kinds[head : end + 1]) - {None}
        if found and (way := _shortest(code, head, end)):
            count = Counter(code.names[at].split(".")[0] for at in way)
            shared = sum(count[name] for name in _SHARED)
            return Loop(len(way), count["MUFU"], count["BAR"], shared, "+".join(sorted(found)))
    return Loop(0, 0, 0, 0, "none")


def _parse(sass: str) -> _Code:
    labels: dict[str, int] = {}
    texts: list[str] = []
    for line in sass.splitlines():
        if label := re.match(r"\s*(\.L\w+):", line):
            labels[label[1]] = len(texts)
        elif instruction := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", line):
            texts.append(instruction[1])
    names, following = [], []
    for at, text in enumerate(texts):
        predicate, name = re.match(r"(@!?U?P\d+\s+)?(\S+)", text).groups()  # type: ignore[union-attr]
        target = re.search(r"`\((\.L\w+)\)", text)
        jumps = name.startswith("BRA") and target and not name.startswith("BRA.DIV")
        goes_on = not jumps or predicate or re.search(r"\bU?P\d", text)
        ends = name in ("EXIT", "RET") and not predicate
        names.append(name)
        following.append(
            ([labels[target[1]]] if jumps else [])  # type: ignore[index]
            + ([at + 1] if goes_on and not ends and at + 1 < len(texts) else [])
        )
    return _Code(names, following)


def _shortest(code: _Code, head: int, end: int) -> list[int]:
    """Return the instructions of the shortest way from the head of a loop back to it, if any."""
    came_from: dict[int, int] = {}
    waiting = [(1, head, -1)]
    while waiting:
        length, at, before = heapq.heappop(waiting)
        if at in came_from:
            continue
        came_from[at] = before
        if head in code.next[at]:
            way = [at]
            while came_from[way[-1]] >= 0:
                way.append(came_from[way[-1]])
            return way[::-1]
        for following in code.next[at]:
            if head < following <= end:
                heapq.heappush(waiting, (length + 1, following, at))
    return []


def replication(ttgir: str) -> int:
    """Return how many warps at most work out the same part of a product, from Triton's IR."""
    layouts = dict(re.findall(r"(#mma\d*) = #ttg\.nvidia_mma<\{(.*?)\}>", ttgir))
    most = 1
    shapes = re.findall(
        r"(?:warp_group_dot|tt\.dot) .*-> tensor<(\d+)x(\d+)xf32, (#mma\d*)>", ttgir
    )
    for rows, columns, layout in shapes:
        version = re.search(r"versionMajor = (\d)", layouts[layout])
        warps = re.search(r"warpsPerCTA = \[(\d+), (\d+)\]", layouts[layout])
        shape = re.search(r"instrShape = \[(\d+), (\d+)", layouts[layout])
        assert version and warps and shape
        # A warp of wgmma has 16 of the 64 rows of its instruction.
        own = 16 if version[1] == "3" else int(shape[1])
        covered = own * int(warps[1]), int(shape[2]) * int(warps[2])
        most = max(most, max(1, covered[0] // int(rows)) * max(1, covered[1] // int(columns)))
    return most


def peak_shares(
    loop: Loop, *, architecture: int, num_warps: int, multiply_adds: int
) -> tuple[float, float]:
    """Return an estimate of the share of the tensor cores' peak: at least, and at most.

    At least: products and all other instructions take turns. At most: they overlap perfectly.

    Args:
        loop: The inner loop.
        architecture: 90 is sm_90.
        num_warps: Of a thread block.
        multiply_adds: Of the products of one tile, 16-bit operands.
    """
    warps = num_warps / _SCHEDULERS
    others = max(loop.instructions, loop.mufu * _MUFU_CYCLES) * warps
    tensor = multiply_adds / _TENSOR_RATE[architecture]
    return tensor / (tensor + others), tensor / max(tensor, others)
