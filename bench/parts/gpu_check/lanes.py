"""How fast NVDEC and the graph are on an idle GPU, by lanes, threads and sizes: a job of gpu_check.

    python -m bench.parts.gpu_check.lanes --data FOLDER --out PATH [--lanes 1 2 4] [--threads 8 16]

A lane is a loader of its own: a thread, a DALI pipeline, decoding sessions. One lane waits for its
longest video before it takes the next ones; several fill that time. One row per combination.
"""

import argparse
import itertools
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import torch

from bench.parts.results import Row, Table, describe_machine
from fastdual.errors import FailureError, InputError
from fastdual.loaders.batch import assemble
from fastdual.loaders.index import VideoIndex, load_index
from fastdual.loaders.loader import ClipLoader
from fastdual.loaders.plan import ClipSpec

_WARMUP = 2  # batches: the graph is built, sessions are made


class Lane(threading.Thread):
    """Takes batches of one loader until it is stopped."""

    def __init__(self, loader: ClipLoader, started: threading.Barrier) -> None:
        super().__init__(daemon=True)
        self.loader, self.started = loader, started
        self.videos, self.error = 0, ""
        self._stopping = threading.Event()

    def run(self) -> None:
        try:
            batches = (batch for _ in itertools.count() for batch in self.loader)
            for _ in itertools.islice(batches, _WARMUP):
                pass
            self.started.wait()
            while not self._stopping.is_set():
                self.videos += len(next(batches).video_ids)
        except Exception as error:  # it is told in the row, and the other combinations go on
            self.error = str(error).strip().splitlines()[0]
            self.started.abort()

    def stop(self) -> int:
        self._stopping.set()
        self.join()
        return self.videos


def measure(index: VideoIndex, options: argparse.Namespace, lanes: int, threads: int) -> Row:
    """Return the rate of so many lanes of so many threads, and who decoded."""
    started = threading.Barrier(lanes + 1)
    # Each lane has a seed, and so an order of its own.
    loaders = [
        ClipLoader(
            index, ClipSpec(), batch_size=min(options.batch_size, len(index)), seed=lane,
            device=options.device, decode=options.decode, num_workers=1,
        )
        for lane in range(lanes)
    ]  # fmt: skip
    with mock.patch.object(assemble, "graph_threads", lambda *_: threads):
        running = [Lane(loader, started) for loader in loaders]
        for lane in running:
            lane.start()
        try:
            started.wait(options.timeout)
        except threading.BrokenBarrierError:
            reasons = [lane.error for lane in running if lane.error]
            return {"status": f"failed: {(reasons or ['no batch in time'])[0]}"}
        clock, taken, seconds = time.perf_counter(), 0, 0.0
        # Lanes count whole batches; on a slow machine the first takes a while.
        while seconds < options.seconds or (not taken and seconds < options.timeout):
            time.sleep(options.seconds / 4)
            taken = sum(lane.videos for lane in running)
            seconds = time.perf_counter() - clock
    for lane in running:
        lane.stop()
        lane.loader.close()
    told = {str(getattr(loader, "decoded_by", "")) for loader in loaders}
    return {
        "status": "ok",
        "videos_per_second": round(taken / seconds, 2),
        "decoded_by": "; ".join(sorted(told)),
    }


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of packs")
    parser.add_argument("--out", type=Path, required=True, help="results without extension")
    packs = ["h264_128x176", "h264_128x172", "raw", "h264_shown_128x176"]
    parser.add_argument("--packs", nargs="+", default=packs)
    parser.add_argument("--lanes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--threads", type=int, nargs="+", default=[16, 8, 32])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--timeout", type=float, default=60.0, help="until all lanes run")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--decode", default="nvdec")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Measure every combination that has no row yet."""
    options = parse(words)
    machine, table = describe_machine(torch.device(options.device)), Table(options.out, keep=True)
    combinations = itertools.product(options.threads, options.lanes, options.packs)
    for threads, lanes, name in combinations:
        case = {"data": name, "lanes": lanes, "graph_threads": threads}
        if table.has(**case):
            continue
        how = {"how": f"{lanes} lanes of {threads} threads"}
        index = load_index(options.data / f"{name}.h5")
        try:
            rate = measure(index, options, lanes, threads)
        except (InputError, FailureError) as error:
            rate = {"status": f"failed: {error}"}
        table.add(case | how | rate | machine)
        print(table.rows[-1]["status"], case, table.rows[-1].get("videos_per_second"), flush=True)


if __name__ == "__main__":
    main()
