"""Time, memory and launches of the losses: eager, torch.compile of eager, ours, other libraries.

    python -m bench.losses [--dtype bfloat16] [--rows 64 1024] [--dims 128] [--out PATH]

Loss and gradients of every contestant are compared with float64 before it is timed, in turns with
ours; one that disagrees is reported and not timed. Without a CUDA device sizes are small and one
thread works: such figures show where time and memory go, and say nothing about a GPU.
"""

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

if not __package__:  # run as a file
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import Tensor

from bench.parts.losses.cases import CASES, Case, Inputs, Loss
from bench.parts.losses.contestants import ContestantMissingError
from bench.parts.losses.plot import draw, one_line
from bench.parts.measure import (
    Timing,
    count_launches,
    measured_matmul_tflops,
    peak_memory_mib,
    time_interleaved,
)
from bench.parts.results import RESULTS, Row, Table, describe_machine

# Relative to the largest entry. bfloat16: eager rounds logits to 8 bits, and at a temperature of
# 0.07 their exponentials are off by some percent.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
# The truth is the whole matrix in float64 up to here; beyond, ours in float64, which streams.
MAX_ROWS_OF_REFERENCE = 4096
MODES = ("forward", "backward", "both")


class Contestant:
    """One loss on its own copy of the inputs; backward uses what forward left behind."""

    def __init__(self, loss: Loss, inputs: Inputs) -> None:
        self.loss = loss
        self.inputs = tuple(
            x.detach().clone().requires_grad_() if x.is_floating_point() else x for x in inputs
        )
        self.wanted = [x for x in self.inputs if x.requires_grad]
        self.value: Tensor | None = None
        self.upstream: Tensor | None = None

    def forward(self) -> None:
        self.value = self.loss(*self.inputs)

    def backward(self) -> tuple[Tensor, ...]:
        assert self.value is not None
        if self.upstream is None:  # made once: otherwise its fill would count as a launch
            self.upstream = torch.ones_like(self.value)
        grads = torch.autograd.grad(self.value, self.wanted, self.upstream)
        self.value = None
        return grads

    def both(self) -> tuple[Tensor, ...]:
        self.forward()
        assert self.value is not None
        return self.value.detach(), *self.backward()


def compiled(loss: Loss) -> Loss:
    """Return torch.compile at its best: for one shape, however many were compiled before."""
    torch.compiler.reset()
    return torch.compile(loss, dynamic=False)


def contestants_of(case: Case) -> Iterator[tuple[str, Callable[[], Loss]]]:
    """Yield each contestant's name and how to load it."""
    yield "fastdual", lambda: case.ours
    yield "eager", lambda: case.eager
    yield "torch.compile", lambda: compiled(case.eager)
    yield from case.others.items()


def largest_error(ours: tuple[Tensor, ...], truth: tuple[Tensor, ...]) -> float:
    """Return the largest error of loss and gradients, each relative to its largest entry."""
    return max(
        float((a.double() - b).abs().max() / b.abs().max())
        for a, b in zip(ours, truth, strict=True)
    )


def admit(
    load: Callable[[], Loss], inputs: Inputs, expected: tuple[Tensor, ...], dtype: torch.dtype
) -> tuple[Contestant | None, Row]:
    """Return a contestant if it runs here and agrees with float64, and the facts about it."""
    try:
        contestant = Contestant(load(), inputs)
        error = largest_error(contestant.both(), expected)
    except ContestantMissingError as missing:
        return None, {"status": str(missing)}
    except torch.OutOfMemoryError:
        return None, {"status": "out of memory"}
    agrees = error <= TOLERANCE[dtype]
    fact = {"status": "ok" if agrees else "disagrees", "max_error": f"{error:.2e}"}
    return contestant if agrees else None, fact


def measure(
    case: Case, num_rows: int, dim: int, dtype: torch.dtype, device: torch.device
) -> Iterator[Row]:
    """Yield the rows of one size: one per contestant and mode, or one that says why it is out.

    Each contestant takes turns with the first, so its rows are there as soon as it is done.
    """
    torch.manual_seed(num_rows + dim)
    inputs = case.make_inputs(num_rows, dim, dtype, device)
    exact = case.truth if len(inputs[0]) <= MAX_ROWS_OF_REFERENCE else case.ours
    wide = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    expected = Contestant(exact, wide).both()
    size: Row = {"loss": case.name, "rows": num_rows, "dim": dim}
    size["dtype"] = str(dtype).removeprefix("torch.")
    flops = case.forward_flops(num_rows, dim)  # backward takes twice as many
    first: tuple[str, Contestant] | None = None
    for name, load in contestants_of(case):
        contestant, fact = admit(load, inputs, expected, dtype)
        row = size | {"contestant": name}
        if contestant is None:
            yield row | {"mode": "", **fact}
            continue
        first = first or (name, contestant)
        pair = dict([first, (name, contestant)])
        turns = time_interleaved(
            {n: (c.forward, c.backward) for n, c in pair.items()}, device=device, budget_seconds=1.0
        )
        beside = {"beside": first[0]}
        for mode, timing, other in zip(MODES, turns[name], turns[first[0]], strict=True):
            beside["beside_ms"] = round(other.median_ms, 4)
            measured = costs(contestant, mode, timing, flops, device)
            yield row | {"mode": mode} | fact | measured | beside


def costs(
    contestant: Contestant, mode: str, timing: Timing, flops: float, device: torch.device
) -> Row:
    """Return time, memory, launches and rate of a mode; in the order of MODES.

    Backward consumes what forward leaves, and `forward` was the call before it.
    """
    run = getattr(contestant, mode)
    peak = peak_memory_mib(run, device)
    if mode == "backward":
        contestant.forward()
    launches = count_launches(run, device)
    return {
        "median_ms": round(timing.median_ms, 4),
        "p20_ms": round(timing.p20_ms, 4),
        "p80_ms": round(timing.p80_ms, 4),
        "peak_mib": round(peak, 3),
        "launches": launches,
        "tflops": round((MODES.index(mode) + 1) * flops / timing.median_ms / 1e9, 4),
    }


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Return the options, with defaults for this machine."""
    parser = argparse.ArgumentParser(prog="python -m bench.losses", description=__doc__)
    cuda = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--rows", type=int, nargs="+")
    parser.add_argument("--dims", type=int, nargs="+")
    parser.add_argument("--losses", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--out", type=Path, help="results without extension")
    parser.add_argument("--continue", action="store_true", dest="keep", help="keep rows in --out")
    arguments = parser.parse_args(words)
    on_cuda = arguments.device.startswith("cuda")
    arguments.dtype = arguments.dtype or ("bfloat16" if on_cuda else "float32")
    arguments.rows = arguments.rows or (
        [64, 128, 512, 2048, 8192, 16384, 65536] if on_cuda else [64, 1024, 4096]
    )
    arguments.dims = arguments.dims or ([64, 128, 256, 512] if on_cuda else [128])
    arguments.out = arguments.out or RESULTS / f"losses_{'cuda' if on_cuda else 'cpu'}"
    if not on_cuda:
        torch.set_num_threads(1)
        print("On a CPU: small sizes and one thread; says nothing about a GPU.", file=sys.stderr)
    return arguments


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print and write every row, then draw the picture."""
    arguments = parse(words)
    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    machine = describe_machine(device) | {
        "roofline_tflops": f"{measured_matmul_tflops(device, dtype):.3f}"
    }
    table = Table(arguments.out, keep=arguments.keep)
    for num_rows, dim, name in itertools.product(arguments.rows, arguments.dims, arguments.losses):
        size = {"loss": name, "rows": num_rows, "dim": dim, "dtype": arguments.dtype}
        *_, (last, _) = contestants_of(CASES[name])
        if table.has(**size, contestant=last):
            continue
        table.drop(**size)  # of a run that was killed here
        for row in measure(CASES[name], num_rows, dim, dtype, device):
            table.add(row | machine)
            print(one_line(row), flush=True)
    draw(table.rows, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
