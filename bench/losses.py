"""Time, memory and launches of the losses: eager, torch.compile of eager, ours, other libraries.

    python -m bench.losses [--dtype bfloat16] [--rows 64 1024] [--dims 128] [--out PATH]

Loss and gradients of every contestant are compared with float64 before it is timed; one that
disagrees is reported and not timed. Without a CUDA device sizes are small and one thread works:
such figures show where time and memory go, and say nothing about a GPU.
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
    yield "eager", lambda: case.eager
    yield "torch.compile", lambda: compiled(case.eager)
    yield "fastdual", lambda: case.ours
    yield from case.others.items()


def largest_error(ours: tuple[Tensor, ...], truth: tuple[Tensor, ...]) -> float:
    """Return the largest error of loss and gradients, each relative to its largest entry."""
    return max(
        float((a.double() - b).abs().max() / b.abs().max())
        for a, b in zip(ours, truth, strict=True)
    )


def admit(
    case: Case, inputs: Inputs, dtype: torch.dtype
) -> tuple[dict[str, Contestant], dict[str, Row]]:
    """Return the contestants that run here and agree with float64, and facts about all of them."""
    exact = case.truth if len(inputs[0]) <= MAX_ROWS_OF_REFERENCE else case.ours
    truth = Contestant(exact, tuple(x.double() if x.is_floating_point() else x for x in inputs))
    expected = truth.both()
    contestants, facts = {}, {}
    for name, load in contestants_of(case):
        try:
            contestant = Contestant(load(), inputs)
            error = largest_error(contestant.both(), expected)
        except ContestantMissingError as missing:
            facts[name] = {"status": str(missing)}
        except torch.OutOfMemoryError:
            facts[name] = {"status": "out of memory"}
        else:
            agrees = error <= TOLERANCE[dtype]
            facts[name] = {"status": "ok" if agrees else "disagrees", "max_error": f"{error:.2e}"}
            if agrees:
                contestants[name] = contestant
    return contestants, facts


def measure(
    case: Case, num_rows: int, dim: int, dtype: torch.dtype, device: torch.device
) -> Iterator[Row]:
    """Yield the rows of one size: one per contestant and mode, or one that says why it is out."""
    torch.manual_seed(num_rows + dim)
    inputs = case.make_inputs(num_rows, dim, dtype, device)
    contestants, facts = admit(case, inputs, dtype)
    timings = time_interleaved(
        {name: (c.forward, c.backward) for name, c in contestants.items()}, device=device
    )
    flops = case.forward_flops(num_rows, dim)  # backward takes twice as many
    for name, fact in facts.items():
        size = {"loss": case.name, "contestant": name, "rows": num_rows, "dim": dim}
        size["dtype"] = str(dtype).removeprefix("torch.")
        if name not in contestants:
            yield {**size, "mode": "", **fact}
            continue
        contestant = contestants[name]
        # In this order: backward consumes what forward leaves.
        for times, (mode, timing) in enumerate(zip(MODES, timings[name], strict=True), start=1):
            run = getattr(contestant, mode)
            peak = peak_memory_mib(run, device)
            if mode == "backward":
                contestant.forward()
            launches = count_launches(run, device)
            yield {
                **size,
                "mode": mode,
                **fact,
                "median_ms": round(timing.median_ms, 4),
                "p20_ms": round(timing.p20_ms, 4),
                "p80_ms": round(timing.p80_ms, 4),
                "peak_mib": round(peak, 3),
                "launches": launches,
                "tflops": round(times * flops / timing.median_ms / 1e9, 4),
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
