"""From positions in the epoch's order to finished batches: plan, decode, replace the bad, augment.

Work is cut into chunks of a few videos. While the graph augments one chunk, workers decode the
next ones, also of the next batch and epoch; the number of videos under way is bounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fastdual.errors import FailureError
from fastdual.loaders.batch.canary import Canary
from fastdual.loaders.batch.dali import DaliDecoder, augment_rows, read_error
from fastdual.loaders.batch.decoder import Augment, graph_threads
from fastdual.loaders.batch.graphs import Graphs
from fastdual.loaders.batch.quarantine import Quarantine
from fastdual.loaders.batch.reader import FrameReader, unique_frames
from fastdual.loaders.batch.routing import Routing
from fastdual.loaders.batch.rows import Assembled, Chunk, Row, Span
from fastdual.loaders.index.table import VideoIndex
from fastdual.loaders.order import EpochOrder
from fastdual.loaders.plan import ClipPlan, ClipSpec, draw_plan
from fastdual.loaders.pool.memory import RecycledMemory, Target

Ints = NDArray[np.int64]

_MOST_BYTES_AHEAD = 1 << 30  # of the rows under way
MOST_SHARED_BATCHES = 8  # more than wait, are being filled and are usually held by the consumer


class Assembler:
    """Turns spans into batches; used from one thread, except for `interrupt`.

    Args:
        index, spec, order: What is loaded.
        seed: Of the plan.
        device: Where the clips end up.
        routing: Who decodes what.
        augment: Who augments what workers do not.
        dtype: Of the clips.
        num_workers: Processes that decode with PyAV.
        num_cpus: CPUs of this process.
        timeout_seconds: A video that takes longer to decode has failed.
        quarantine_path: The file of the videos that fail, or None.
    """

    def __init__(
        self,
        index: VideoIndex,
        spec: ClipSpec,
        order: EpochOrder,
        *,
        seed: int,
        device: torch.device,
        routing: Routing,
        augment: Augment,
        dtype: torch.dtype,
        num_workers: int,
        num_cpus: int,
        timeout_seconds: float,
        quarantine_path: Path | None,
    ) -> None:
        self._index, self._spec, self._order, self._seed = index, spec, order, seed
        self._device, self._routing, self._dtype = device, routing, dtype
        self._quarantine = Quarantine(index, order.num_videos, quarantine_path)
        self._reader = FrameReader(index, spec, num_workers, timeout_seconds)
        self._view_shape = (spec.num_views, *spec.clip_shape, 3)
        self._batch_memory = RecycledMemory(MOST_SHARED_BATCHES)
        self._chunk_memory = RecycledMemory()
        self._chunk_rows = 32 if device.type == "cuda" else max(4, num_cpus)
        self._crosses_batches = device.type == "cuda" or routing.choice.decoder != "pyav"
        threads = graph_threads(routing.choice.decoder, num_cpus)
        self._graphs = Graphs(
            spec, device, max_rows=self._chunk_rows, num_threads=threads,
            timeout_seconds=timeout_seconds, augment=augment,
        )  # fmt: skip
        folder = None if quarantine_path is None else quarantine_path.parent / "decoder-check"
        canary = Canary(index, spec, self._reader, folder)
        self._dali = DaliDecoder(index, spec, self._graphs, routing, canary, self._leave_to_pyav)
        self._rows_ahead = 2 * num_workers + self._chunk_rows
        row_bytes = np.prod(self._view_shape) * (4 if device.type == "cpu" else 1)
        self._most_rows = max(2 * self._rows_ahead, int(_MOST_BYTES_AHEAD // row_bytes))

    def batches(self, spans: Iterable[Span]) -> Iterator[Assembled]:
        """Yield the batches of the spans, in order.

        Raises:
            FailureError: Too many videos fail, or workers cannot be started.
        """
        pending: deque[Chunk] = deque()
        unfinished: deque[Assembled] = deque()
        under_way = 0
        for chunk in self._chunks(spans, unfinished):
            pending.append(chunk)
            under_way += len(chunk.rows)
            while not self._has_room(pending[0], under_way):
                under_way -= len(pending[0].rows)
                self._finish(pending.popleft())
                yield from _take_complete(unfinished)
        while pending:
            self._finish(pending.popleft())
            yield from _take_complete(unfinished)
        yield from _take_complete(unfinished)

    def _has_room(self, first: Chunk, under_way: int) -> bool:
        """Return whether another chunk is to be started before the first one is finished.

        A few are under way at any time. While a video of the first one takes long, more are
        started, so that workers that are done with theirs do not wait for it.
        """
        if under_way - len(first.rows) < self._rows_ahead:
            return True
        tickets = [row.ticket for row in first.rows if row.ticket is not None]
        return under_way < self._most_rows and self._reader.wait_for_room(tickets)

    def interrupt(self) -> None:
        """Kill the workers, which ends waiting for one that hangs; may be called by any thread."""
        self._reader.close()

    def close(self) -> None:
        """Stop the workers and drop the graphs."""
        self._reader.close()
        self._dali.close()
        self._graphs.close()

    @property
    def idle_seconds(self) -> float:
        """Time that the decoding workers have waited for a video, of all together."""
        return self._reader.idle_seconds

    def overdue(self) -> str | None:
        """Return what takes too long inside DALI, or None; may be called by any thread."""
        return self._graphs.overdue()

    # ---- starting a chunk: draw the plan, queue the decoding

    def _chunks(self, spans: Iterable[Span], unfinished: deque[Assembled]) -> Iterator[Chunk]:
        """Cut the rows of all batches into chunks, and start to decode each.

        A chunk that goes through a graph continues into the next batch: batches of eight must not
        feed the decoders of a GPU eight at a time.
        """
        rows: list[Row] = []
        for span in spans:
            batch = self._allocate(span)
            unfinished.append(batch)
            rows += self._rows(batch)
            parts = list(self._dali.cut(rows, self._chunk_rows))
            rows = parts.pop() if parts and self._crosses_batches else []
            yield from map(self._start, parts)
        if rows:
            yield self._start(rows)

    def _rows(self, batch: Assembled) -> list[Row]:
        span = batch.span
        videos = self._order.at(span.epoch, span.start, span.stop)
        plan = self._draw(span.epoch, videos)
        wanted, order = unique_frames(self._index.places(plan.videos, plan.frames))
        if not len(plan):  # a rank's part of a short last batch may be empty
            batch.plans.append(plan)
        return [
            Row(batch, row, plan[row : row + 1], wanted[row], order[row : row + 1])
            for row in range(len(plan))
        ]

    def _start(self, rows: list[Row]) -> Chunk:
        chunk = Chunk(rows)
        for row in rows:
            self._submit(chunk, row)
        return chunk

    def _draw(self, epoch: int, videos: Ints) -> ClipPlan:
        return draw_plan(
            self._spec,
            seed=self._seed,
            epoch=epoch,
            videos=videos,
            num_frames=self._index.num_frames[videos],
        )

    def _submit(self, chunk: Chunk, row: Row) -> None:
        reason = self._routing.why_not(row.video)
        if reason is None:
            self._dali.submit(row)
        else:
            row.reason = reason
            self._submit_to_pyav(chunk, row)

    def _submit_to_pyav(self, chunk: Chunk, row: Row) -> None:
        """On a CPU the worker that decodes also augments; a GPU does that much faster itself."""
        out = self._target(chunk, row)
        if self._device.type == "cpu":
            row.ticket = self._reader.submit_views(row.plan, row.wanted, row.order, out)
        else:
            row.ticket = self._reader.submit(row.video, row.wanted, out)

    def _target(self, chunk: Chunk, row: Row) -> Target:
        """Return what a worker fills: the batch's own row, or one of the chunk's memory."""
        if row.batch.shared is not None:
            return row.batch.shared.row(row.number)
        on_cpu, spec = self._device.type == "cpu", self._spec
        if chunk.shared is None:
            frames = (spec.most_frames, spec.resize_height, spec.resize_width, 3)
            shape, dtype = (self._view_shape, "<f4") if on_cpu else (frames, "|u1")
            chunk.shared = self._chunk_memory.take((self._chunk_rows, *shape), dtype)
            assert chunk.shared is not None
        return chunk.shared.row(chunk.rows.index(row), None if on_cpu else len(row.wanted))

    def _allocate(self, span: Span) -> Assembled:
        shape = (span.stop - span.start, *self._view_shape)
        if self._device.type == "cpu" and self._dtype == torch.float32:
            shared = self._batch_memory.take(shape, "<f4")
            if shared is not None:
                return Assembled(span, torch.from_numpy(shared.values), shared)
        return Assembled(span, torch.empty(shape, dtype=self._dtype, device=self._device))

    # ---- finishing a chunk: replace what failed, run the graph

    def _finish(self, chunk: Chunk) -> None:
        """Fill the chunk's rows."""
        for row in chunk.rows:
            self._replace_if_unreadable(chunk, row)
        self._dali.finish(chunk)
        by_pyav = [row for row in chunk.rows if row.encoded is None]
        for row in by_pyav:
            self._replace_if_bad(chunk, row)
        made = [self._target(chunk, row).array for row in by_pyav]
        if by_pyav and self._device.type == "cuda":
            augment_rows(self._graphs, self._index, by_pyav, {"frames": made})
        else:
            for row, views in zip(by_pyav, made, strict=True):
                if row.batch.shared is None:
                    row.batch.clips[row.number] = torch.from_numpy(views)
        for row in chunk.rows:
            decoder = "pyav" if row.encoded is None else self._routing.choice.decoder
            row.batch.decoded.append((decoder, row.reason))
            row.batch.plans.append(row.plan)

    def _leave_to_pyav(self, chunk: Chunk, row: Row, reason: str) -> None:
        if row.watched is not None:
            self._reader.wait(row.watched.ticket)  # until then its memory is written to
        row.encoded, row.watched, row.reason = None, None, reason
        self._submit_to_pyav(chunk, row)

    def _replace_if_unreadable(self, chunk: Chunk, row: Row) -> None:
        """Wait for the bytes that DALI is given; where they cannot be read, replace the video."""
        substitutes = self._substitutes(row)
        while row.encoded is not None and (reason := read_error(row)) is not None:
            if row.watched is not None:
                self._reader.wait(row.watched.ticket)
            row.encoded = row.watched = None
            self._show_next(row, reason, substitutes)
            self._submit(chunk, row)

    def _replace_if_bad(self, chunk: Chunk, row: Row) -> None:
        """Wait until PyAV has filled a row; where it cannot, put the next good video there.

        Nothing is remembered between attempts, so the video shown depends on the order and the
        files alone, not on the rank or the run.
        """
        substitutes = self._substitutes(row)
        while True:
            assert row.ticket is not None
            failure = self._reader.wait(row.ticket)
            if failure is None:
                return
            self._show_next(row, failure.reason, substitutes)
            row.reason = self._routing.why_not(row.video) or row.reason
            self._submit_to_pyav(chunk, row)

    def _substitutes(self, row: Row) -> Iterator[int]:
        span = row.batch.span
        return self._order.substitutes(span.epoch, span.start + row.number)

    def _show_next(self, row: Row, reason: str, substitutes: Iterator[int]) -> None:
        """Put the next video into a row whose own cannot be used."""
        self._quarantine.add(row.video, reason)
        video = next(substitutes, None)
        if video is None:
            raise FailureError("none of the videos can be decoded; build the index again")
        row.plan = self._draw(row.batch.span.epoch, np.array([video]))
        places = self._index.places(row.plan.videos, row.plan.frames)
        (row.wanted,), row.order = unique_frames(places)


def _take_complete(unfinished: deque[Assembled]) -> Iterator[Assembled]:
    while unfinished and unfinished[0].is_complete:
        yield unfinished.popleft()
