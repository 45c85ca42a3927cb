"""Times other tiles than the chosen ones, as a job of bench.gpu_check.

    python -m bench.parts.gpu_check.tiles --out PATH [--rows 16384 1024] [--dims 128] [--limit 12]

The tiles were chosen by what the compiled kernels cost; only time can tell which is the fastest.
From the chosen one the search goes to the fastest of its neighbours (half or twice a block, more
or fewer warps or stages), until none is faster. Every tile's results are compared with the chosen
one's. Each tile is a row, the fastest of a kernel and a size one more.
"""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch

from bench.losses import TOLERANCE, Contestant, largest_error
from bench.parts.losses.cases import CASES, TEMPERATURE
from bench.parts.measure import time_interleaved
from bench.parts.results import Row, Table, describe_machine
from fastdual import losses
from fastdual.kernels.contrastive import triton_backward, triton_forward
from fastdual.kernels.contrastive.triton_launch import Tile

_CHOOSERS = {
    "forward": (triton_forward, "forward_tile"),
    "backward": (triton_backward, "backward_tile"),
}
_GAIN = 1.02  # a smaller difference is noise


@contextmanager
def using(kernel: str, tile: Tile) -> Iterator[None]:
    """Let every launch of a kernel take one tile."""
    module, name = _CHOOSERS[kernel]
    with mock.patch.object(module, name, lambda *_, **__: tile):
        yield


def chosen_tile(kernel: str, contestant: Contestant) -> Tile:
    """Return the tile that a launch takes by itself."""
    module, name = _CHOOSERS[kernel]
    found: list[Tile] = []
    choose = getattr(module, name)

    def note(*arguments: object, **options: object) -> Tile:
        found.append(choose(*arguments, **options))
        return found[-1]

    with mock.patch.object(module, name, note):
        contestant.both()
    return found[0]


def neighbours(tile: Tile) -> Iterator[Tile]:
    """Yield the tiles that differ in one thing."""
    for field, factor in itertools.product(("own", "other", "num_warps"), (2, 0.5)):
        yield tile._replace(**{field: int(getattr(tile, field) * factor)})
    for change in (1, -1):
        yield tile._replace(num_stages=tile.num_stages + change)


def is_sensible(tile: Tile) -> bool:
    """Return whether Triton can compile it: products need 16 rows, and a stage at least."""
    return (
        all(16 <= length <= 256 for length in (tile.own, tile.other))
        and 2 <= tile.num_warps <= 16
        and 1 <= tile.num_stages <= 5
    )


def describe(tile: Tile) -> str:
    """Return a tile as text."""
    return f"{tile.own}x{tile.other}, {tile.num_warps} warps, {tile.num_stages} stages"


class Search:
    """Times tiles of one kernel at one size."""

    def __init__(self, kernel: str, num_rows: int, dim: int, device: torch.device) -> None:
        torch.manual_seed(0)
        on_cuda = device.type == "cuda"
        self.kernel, self.device = kernel, device
        self.dtype = torch.bfloat16 if on_cuda else torch.float32  # the interpreter knows no bf16
        inputs = CASES["nt_xent"].make_inputs(num_rows, dim, self.dtype, device)
        self.contestant = Contestant(losses.NTXentLoss(TEMPERATURE, backend="fused"), inputs)
        self.expected = tuple(x.double() for x in self.contestant.both())
        self.chosen = chosen_tile(kernel, self.contestant)
        self.case = {"kernel": kernel, "dtype": str(self.dtype).removeprefix("torch.")}
        self.case |= {"rows": num_rows, "dim": dim}

    def time(self, tile: Tile) -> Row:
        """Return the row of a tile: its milliseconds, or why it has none."""
        row = self.case | {"tile": describe(tile), "is_chosen": tile == self.chosen}
        with using(self.kernel, tile):
            try:
                error = largest_error(self.contestant.both(), self.expected)
            except Exception as failed:  # registers, shared memory, a fault of the compiler
                reason = str(failed).strip() or type(failed).__name__
                return row | {"status": f"failed: {reason.splitlines()[0][:120]}"}
            if error > TOLERANCE[self.dtype]:
                return row | {"status": f"disagrees: off by {error:.1e}"}
            phases = {"it": (self.contestant.forward, self.contestant.backward)}
            # Interpreted, as in a rehearsal, a time says nothing.
            turns = {} if self.device.type == "cuda" else {"warmup": 0, "min_repeats": 1}
            timed = time_interleaved(phases, device=self.device, budget_seconds=0.3, **turns)
        milliseconds = timed["it"][0 if self.kernel == "forward" else 1].median_ms
        return row | {"status": "ok", "ms": round(milliseconds, 4)}

    def run(self, limit: int) -> Iterator[Row]:
        """Yield the rows of up to `limit` tiles, then the fastest again."""
        tried = {self.chosen: self.time(self.chosen)}
        yield tried[self.chosen]
        place = self.chosen
        while True:
            for tile in filter(is_sensible, neighbours(place)):
                if tile not in tried and len(tried) < limit:
                    tried[tile] = self.time(tile)
                    yield tried[tile]
            timed = {tile: row["ms"] for tile, row in tried.items() if "ms" in row}
            fastest = min(timed, key=lambda tile: timed[tile], default=place)
            if fastest == place or len(tried) >= limit or timed[place] < _GAIN * timed[fastest]:
                break
            place = fastest
        gain = timed[self.chosen] / timed[fastest] if self.chosen in timed else 1.0
        best = self.chosen if gain < _GAIN else fastest
        gain = round(gain, 3) if best is fastest else 1
        yield tried[best] | {"status": "fastest", "fastest": True, "times_chosen": gain}


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="results without extension")
    parser.add_argument("--rows", type=int, nargs="+", default=[16384, 1024, 128])
    parser.add_argument("--dims", type=int, nargs="+", default=[128])
    parser.add_argument("--limit", type=int, default=12, help="tiles of a kernel and a size")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Search every kernel at every size."""
    options = parse(words)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    machine, table = describe_machine(device), Table(options.out, keep=True)
    for dim, num_rows, kernel in itertools.product(options.dims, options.rows, _CHOOSERS):
        size = {"kernel": kernel, "rows": num_rows, "dim": dim}
        if table.has(**size, fastest=True):
            continue
        table.drop(**size)
        for row in Search(kernel, num_rows, dim, device).run(options.limit):
            table.add(row | machine)
            print({key: row.get(key) for key in ("kernel", "rows", "tile", "status", "ms")})


if __name__ == "__main__":
    main()
