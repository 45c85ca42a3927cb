"""From positions in the epoch's order to finished batches: plan, decode, replace the bad, augment.

Work is cut into chunks of a few videos. While the graph augments one chunk, workers decode the
next ones, also of the next batch and epoch; the number of videos under way is bounded.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastdual.errors import FailureError
from fastdual.loaders.batch.decoder import DecodeChoice, available_cpus, graph_threads, why_not_dali
from fastdual.loaders.batch.quarantine import Quarantine
from fastdual.loaders.batch.reader import FrameReader, unique_frames
from fastdual.loaders.batch.rows import Assembled, Chunk, Row, Span
from fastdual.loaders.index.table import VideoIndex
from fastdual.loaders.order import EpochOrder
from fastdual.loaders.plan import ClipPlan, ClipSpec, draw_plan
from fastdual.loaders.pool.memory import RecycledMemory, Target
from fastdual.loaders.views.graph import ClipGraph, Source, encoded_inputs, read_pinned

Ints = NDArray[np.int64]

MOST_SHARED_BATCHES = 8  # more than wait, are being filled and are usually held by the consumer
_READ_THREADS = 4
logger = logging.getLogger("fastdual.loaders")


class Assembler:
    """Turns spans into batches; used from one thread, except for `interrupt`.

    Args:
        index, spec, order: What is loaded.
        seed: Of the plan.
        device: Where the clips end up.
        choice: The decoder.
        dtype: Of the clips.
        num_workers: Processes that decode with PyAV.
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
        choice: DecodeChoice,
        dtype: torch.dtype,
        num_workers: int,
        timeout_seconds: float,
        quarantine_path: Path | None,
    ) -> None:
        self._index, self._spec, self._order, self._seed = index, spec, order, seed
        self._device, self._choice, self._dtype = device, choice, dtype
        self._quarantine = Quarantine(index, order.num_videos, quarantine_path)
        self._reader = FrameReader(index, spec, num_workers, timeout_seconds)
        self._files = ThreadPoolExecutor(_READ_THREADS, thread_name_prefix="fastdual-read")
        self._graphs: dict[Source, ClipGraph] = {}
        self._view_shape = (spec.num_views, *spec.clip_shape, 3)
        self._refused: set[int] = set()
        self._batch_memory = RecycledMemory(MOST_SHARED_BATCHES)
        self._chunk_memory = RecycledMemory()
        self._examinations: dict[int, int] = {}
        self._examined: dict[int, NDArray[np.float64] | str] = {}
        self._num_threads = graph_threads(choice.decoder, available_cpus())
        self._chunk_rows = 32 if device.type == "cuda" else max(4, 2 * self._num_threads)
        self._rows_ahead = 2 * num_workers + self._chunk_rows

    def batches(self, spans: Iterable[Span]) -> Iterator[Assembled]:
        """Yield the batches of the spans, in order.

        Raises:
            FailureError: Too many videos fail, or workers cannot be started.
        """
        pending: deque[Chunk] = deque()
        under_way = 0
        for span in spans:
            batch = self._allocate(span)
            for chunk in self._start(batch):
                pending.append(chunk)
                under_way += len(chunk.rows)
                while under_way - len(pending[0].rows) >= self._rows_ahead:
                    under_way -= len(pending[0].rows)
                    yield from self._finish(pending.popleft())
        while pending:
            yield from self._finish(pending.popleft())

    def interrupt(self) -> None:
        """Kill the workers, which ends waiting for one that hangs; may be called by any thread."""
        self._reader.close()

    def close(self) -> None:
        """Stop the workers and drop the graphs."""
        self._reader.close()
        self._files.shutdown(wait=True, cancel_futures=True)
        self._graphs.clear()

    # ---- starting a chunk: draw the plan, queue the decoding

    def _start(self, batch: Assembled) -> Iterator[Chunk]:
        span = batch.span
        videos = self._order.at(span.epoch, span.start, span.stop)
        plan = self._draw(span.epoch, videos)
        wanted, order = unique_frames(self._index.places(plan.videos, plan.frames))
        for first in range(0, max(len(plan), 1), self._chunk_rows):
            rows = [
                Row(row, plan[row : row + 1], wanted[row], order[row : row + 1])
                for row in range(first, min(first + self._chunk_rows, len(plan)))
            ]
            chunk = Chunk(batch, first, rows)
            for row in rows:
                self._submit(chunk, row)
            if not rows:  # a rank's part of a short last batch may be empty
                batch.plans.append(plan)
            yield chunk

    def _draw(self, epoch: int, videos: Ints) -> ClipPlan:
        return draw_plan(
            self._spec,
            seed=self._seed,
            epoch=epoch,
            videos=videos,
            num_frames=self._index.num_frames[videos],
        )

    def _submit(self, chunk: Chunk, row: Row) -> None:
        video = row.video
        if video in self._refused or why_not_dali(self._choice.decoder, self._index, video):
            self._submit_to_pyav(chunk, row)
            return
        row.encoded = self._files.submit(read_pinned, self._index.source(video), self._device)
        if video not in self._examined and video not in self._examinations:
            self._examinations[video] = self._reader.submit_examination(video)

    def _submit_to_pyav(self, chunk: Chunk, row: Row) -> None:
        """On a CPU the worker that decodes also augments; a GPU does that much faster itself."""
        out = self._target(chunk, row)
        if self._device.type == "cpu":
            row.ticket = self._reader.submit_views(row.plan, row.wanted, row.order, out)
        else:
            row.ticket = self._reader.submit(row.video, row.wanted, out)

    def _target(self, chunk: Chunk, row: Row) -> Target:
        """Return what a worker fills: the batch's own row, or one of the chunk's memory."""
        if chunk.batch.shared is not None:
            return chunk.batch.shared.row(row.number)
        on_cpu, spec = self._device.type == "cpu", self._spec
        if chunk.shared is None:
            most_frames = (1 + max(spec.view_clip)) * spec.frames_per_clip
            frames = (most_frames, spec.resize_height, spec.resize_width, 3)
            shape, dtype = (self._view_shape, "<f4") if on_cpu else (frames, "|u1")
            chunk.shared = self._chunk_memory.take((self._chunk_rows, *shape), dtype)
            assert chunk.shared is not None
        return chunk.shared.row(row.number - chunk.first_row, None if on_cpu else len(row.wanted))

    def _allocate(self, span: Span) -> Assembled:
        shape = (span.stop - span.start, *self._view_shape)
        if self._device.type == "cpu" and self._dtype == torch.float32:
            shared = self._batch_memory.take(shape, "<f4")
            if shared is not None:
                return Assembled(span, torch.from_numpy(shared.values), shared)
        return Assembled(span, torch.empty(shape, dtype=self._dtype, device=self._device))

    # ---- finishing a chunk: replace what failed, run the graph

    def _finish(self, chunk: Chunk) -> Iterator[Assembled]:
        """Fill the chunk's rows, and yield the batch if it is complete."""
        batch = chunk.batch
        self._finish_encoded(chunk)
        decoded = [row for row in chunk.rows if row.encoded is None]
        for row in decoded:
            self._replace_if_bad(chunk, row)
        made = [self._target(chunk, row).array for row in decoded]
        if self._device.type == "cpu" and batch.shared is None:
            for row, views in zip(decoded, made, strict=True):
                batch.clips[row.number] = torch.from_numpy(views)
        elif decoded and self._device.type == "cuda":
            self._augment(chunk, decoded, "frames", {"frames": made})
        batch.plans.extend(row.plan for row in chunk.rows)
        if chunk.first_row + len(chunk.rows) == len(batch.clips):
            yield batch

    def _finish_encoded(self, chunk: Chunk) -> None:
        """Decode and augment in the graph; rows that DALI cannot decode are left to PyAV."""
        rows = []
        for row in chunk.rows:
            if row.encoded is None:
                continue
            answer = self._examine(row.video)
            if row.encoded.exception() is not None or not len(row.encoded.result()):
                self._leave_to_pyav(chunk, row, "the file cannot be read")
            elif isinstance(answer, str):
                self._leave_to_pyav(chunk, row, answer)
            else:
                rows.append(row)
        if not rows or self._try_encoded(chunk, rows) is None:
            return
        # One bad file fails the whole run of the graph: find it by running each alone.
        for row in rows:
            reason = self._try_encoded(chunk, [row])
            if reason is not None:
                self._leave_to_pyav(chunk, row, reason)

    def _examine(self, video: int) -> NDArray[np.float64] | str:
        """Return the answer of `FrameReader.examined`; each video is examined once."""
        if video not in self._examined:
            self._examined[video] = self._reader.examined(self._examinations.pop(video))
        return self._examined[video]

    def _leave_to_pyav(self, chunk: Chunk, row: Row, reason: str) -> None:
        if row.video not in self._refused:
            self._refused.add(row.video)
            logger.warning("PyAV decodes %s: %s", self._index.path(row.video), reason)
        row.encoded = None
        self._submit_to_pyav(chunk, row)

    def _try_encoded(self, chunk: Chunk, rows: list[Row]) -> str | None:
        """Run the decoding graph; return the last line of its error, or None."""
        inputs = encoded_inputs(
            self._spec,
            [row.encoded.result() for row in rows if row.encoded is not None],
            [row.wanted for row in rows],
            self._index.rotation[[row.video for row in rows]].astype(np.int64),
            np.stack([self._examine(row.video) for row in rows]),
        )
        try:
            self._augment(chunk, rows, "encoded", inputs)
        except RuntimeError as error:
            self._graphs.pop("encoded").close()  # a graph that failed once cannot be used again
            return str(error).strip().splitlines()[-1]
        return None

    def _augment(
        self, chunk: Chunk, rows: list[Row], source: Source, inputs: dict[str, Any]
    ) -> None:
        plan = ClipPlan.concatenate([row.plan for row in rows])
        order = np.concatenate([row.order for row in rows])
        views = self._graph(source).run(plan, order, inputs)
        if len(rows) == len(chunk.rows):
            first = chunk.first_row
            places: slice | Tensor = slice(first, first + len(rows))
        else:
            places = torch.tensor([row.number for row in rows], device=self._device)
        for view, values in enumerate(views):
            chunk.batch.clips[places, view] = values.to(self._dtype)
        if self._device.type == "cuda":
            # The memory of the inputs and of the outputs is used again from here on.
            torch.cuda.current_stream().synchronize()

    def _graph(self, source: Source) -> ClipGraph:
        if source not in self._graphs:
            self._graphs[source] = ClipGraph(
                self._spec,
                source=source,
                device=self._device,
                max_batch_size=self._chunk_rows,
                num_threads=self._num_threads,
            )
        return self._graphs[source]

    def _replace_if_bad(self, chunk: Chunk, row: Row) -> None:
        """Wait until PyAV has filled a row; where it cannot, put the next good video there.

        Nothing is remembered between attempts, so the video shown depends on the order and the
        files alone, not on the rank or the run.
        """
        epoch = chunk.batch.span.epoch
        substitutes = self._order.substitutes(epoch, chunk.batch.span.start + row.number)
        while True:
            assert row.ticket is not None
            failure = self._reader.wait(row.ticket)
            if failure is None:
                return
            self._quarantine.add(row.video, failure.reason)
            video = next(substitutes, None)
            if video is None:
                raise FailureError("none of the videos can be decoded; build the index again")
            row.plan = self._draw(epoch, np.array([video]))
            places = self._index.places(row.plan.videos, row.plan.frames)
            (row.wanted,), row.order = unique_frames(places)
            self._submit_to_pyav(chunk, row)
