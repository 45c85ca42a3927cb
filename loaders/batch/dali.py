"""The rows that DALI decodes: run together, searched for what fails, compared now and then.

A run fails as a whole. The rows are then halved until those that fail are alone, so that few graphs
are built again: never one per video. What is found out goes to `routing`.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastdual.errors import FailureError
from fastdual.loaders.batch.canary import Canary
from fastdual.loaders.batch.graphs import GraphFailure, Graphs
from fastdual.loaders.batch.routing import MOST_FAILURES, Routing
from fastdual.loaders.batch.rows import Chunk, Row
from fastdual.loaders.decode.encoded import read_encoded
from fastdual.loaders.index.table import VideoIndex
from fastdual.loaders.plan import ClipPlan, ClipSpec
from fastdual.loaders.views.graph import Rows, Source, encoded_inputs

_READ_THREADS = 4
_DECODED_BYTES = 1 << 29  # of the frames that DALI holds at a time
_BUFFERED_FRAMES = 8  # of each decoder, beside the wanted ones
logger = logging.getLogger("fastdual.loaders")


class DaliDecoder:
    """Decodes and augments rows inside the DALI graph.

    Args:
        index, spec: What is loaded.
        graphs: They run here.
        routing: Is told what works and what fails.
        canary: Compares.
        leave: Gives a row of a chunk to PyAV, for a reason.
    """

    def __init__(
        self,
        index: VideoIndex,
        spec: ClipSpec,
        graphs: Graphs,
        routing: Routing,
        canary: Canary,
        leave: Callable[[Chunk, Row, str], None],
    ) -> None:
        self._index, self._spec, self._graphs = index, spec, graphs
        self._routing, self._canary, self._leave = routing, canary, leave
        self._files = ThreadPoolExecutor(_READ_THREADS, thread_name_prefix="fastdual-read")
        self._most_bytes = _DECODED_BYTES

    def submit(self, row: Row) -> None:
        """Start reading a row's bytes, and decoding the frame that is compared."""
        row.encoded = self._files.submit(read_encoded, self._index.source(row.video))
        row.watched = self._canary.watch(row, self._routing.kind(row.video))

    def close(self) -> None:
        """Stop reading."""
        self._files.shutdown(wait=True, cancel_futures=True)

    def decoded_bytes(self, row: Row) -> int:
        """Return what DALI needs for the decoded frames of a row."""
        height, width = self._index.size[row.video].tolist()
        return 3 * int(height) * int(width) * (len(row.wanted) + _BUFFERED_FRAMES)

    def cut(self, rows: list[Row], most_rows: int) -> Iterator[list[Row]]:
        """Cut rows into parts of so many at most, whose decoded frames fit into the memory."""
        part: list[Row] = []
        num_bytes = 0
        for row in rows:
            more = 0 if self._routing.why_not(row.video) is not None else self.decoded_bytes(row)
            is_full = more > 0 and num_bytes + more > self._most_bytes
            if part and (is_full or len(part) == most_rows):
                yield part
                part, num_bytes = [], 0
            part.append(row)
            num_bytes += more
        if part:
            yield part

    def finish(self, chunk: Chunk) -> None:
        """Decode and augment the rows of a chunk that were submitted; others are left to PyAV.

        Raises:
            FailureError: The decoder has no substitute, and something fails.
        """
        rows = [row for row in chunk.rows if row.encoded is not None]
        parts = list(self.cut(rows, len(rows) or 1))[::-1]
        num_failed = num_decoded = 0
        failure: GraphFailure | None = None
        while parts:
            part = self._still_ours(chunk, parts.pop())
            if num_failed >= MOST_FAILURES and not num_decoded:
                for row in part:
                    self._leave(chunk, row, f"{failure}")
            elif part and (failure := self._try(chunk, part)) is None:
                num_decoded += len(part)
            elif part and failure is not None:
                if len(part) > 1:
                    part.sort(key=lambda row: self._routing.kind(row.video))
                    half = len(part) // 2
                    parts += [part[half:], part[:half]]
                else:
                    num_failed += 1
                    self._routing.fail(part[0].video, str(failure))
                    self._leave(chunk, part[0], str(failure))
        if num_failed and not num_decoded:
            self._routing.fail_chunk(f"{failure}")

    def _still_ours(self, chunk: Chunk, rows: list[Row]) -> list[Row]:
        """Leave the rows to PyAV that DALI is not to decode any more; return the others."""
        ours = []
        for row in rows:
            reason = self._routing.why_not(row.video)
            if reason is None:
                ours.append(row)
            else:
                self._leave(chunk, row, reason)
        return ours

    def _try(self, chunk: Chunk, rows: list[Row]) -> GraphFailure | None:
        places = [0 if row.watched is None else row.watched.place for row in rows]
        inputs = encoded_inputs(
            self._spec,
            [row.encoded.result() for row in rows if row.encoded is not None],
            [row.wanted for row in rows],
            self._index.rotation[[row.video for row in rows]].astype(np.int64),
            np.array(places),
        )
        try:
            pictures = augment_rows(self._graphs, self._index, rows, inputs)
        except GraphFailure as failure:
            if failure.is_memory and len(rows) > 1:
                self._take_less(rows)
            return failure
        assert pictures is not None
        self._routing.work([row.video for row in rows])
        self._compare(chunk, rows, pictures)
        return None

    def _take_less(self, rows: list[Row]) -> None:
        if self._most_bytes == _DECODED_BYTES:
            logger.warning(
                "memory ran out while DALI decoded %d videos at a time: it gets half as many from "
                "here on, or fewer", len(rows),
            )  # fmt: skip
        needed = sum(self.decoded_bytes(row) for row in rows)
        self._most_bytes = min(self._most_bytes, needed) // 2

    def _compare(self, chunk: Chunk, rows: list[Row], pictures: Tensor) -> None:
        """Give up the kinds whose pictures are wrong, also what was just decoded of them."""
        for place, row in enumerate(rows):
            kind = self._routing.kind(row.video)
            if row.watched is None or self._routing.why_not(row.video) is not None:
                continue
            wrong = self._canary.compare(row, kind, pictures[place].cpu().numpy())
            row.watched = None
            if wrong is not None:
                self._routing.refuse(kind, f"its pictures are wrong: {wrong}")
        self._still_ours(chunk, rows)


def augment_rows(
    graphs: Graphs, index: VideoIndex, rows: list[Row], inputs: dict[str, object]
) -> Tensor | None:
    """Run the graph for some rows of a chunk and put their views into their batches.

    Args:
        graphs, index: Of the loader.
        rows: In any order.
        inputs: "frames", or those of `encoded_inputs`.

    Returns:
        The pictures that are watched, see `Made`.

    Raises:
        GraphFailure: DALI could not decode one of the videos, or ran out of memory.
    """
    plan = ClipPlan.concatenate([row.plan for row in rows])
    order: NDArray[np.int64] = np.concatenate([row.order for row in rows])
    names = f"{len(rows)} videos (the first: {index.path(rows[0].video)})"
    source: Source = "frames" if "frames" in inputs else "encoded"
    of_batch = (list(part) for _, part in itertools.groupby(rows, lambda row: id(row.batch)))
    places = [
        Rows(part[0].batch.clips, np.array([row.number for row in part])) for part in of_batch
    ]
    pictures = graphs.fill(source, plan, order, inputs, rows=places, what=names)
    if places[0].clips.is_cuda:
        # The memory of the inputs and of the outputs is used again from here on.
        torch.cuda.current_stream().synchronize()
    return pictures


def read_error(row: Row) -> str | None:
    """Wait until a row's bytes are read; return why they cannot be used, or None."""
    assert row.encoded is not None
    error = row.encoded.exception()
    if error is None:
        return None
    if isinstance(error, FileNotFoundError):
        return "the file is missing"
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror}"
    if isinstance(error, FailureError):
        return str(error)
    raise error
