"""The background thread that makes batches, and the bounded queue in which they wait."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

from fastdual.errors import FailureError
from fastdual.loaders.batch.assemble import Assembler
from fastdual.loaders.batch.rows import Assembled, Span

_POLL_SECONDS = 0.2


class Producer:
    """The background thread and the bounded queue of finished batches.

    It does not refer to the loader, so that a loader that nobody holds can be collected.

    Args:
        make_assembler: Called in the thread.
        spans: What is to be assembled.
        device: Of the batches.
        prefetch: Finished batches that wait at most.
    """

    def __init__(
        self,
        make_assembler: Callable[[], Assembler],
        spans: Iterator[Span],
        device: torch.device,
        prefetch: int,
    ) -> None:
        self._make_assembler, self._spans, self._device = make_assembler, spans, device
        self._queue: queue.Queue[tuple[Assembled, Any] | BaseException] = queue.Queue(prefetch)
        self._stopping = threading.Event()
        self._assembler: Assembler | None = None
        self._thread = threading.Thread(target=self._run, name="fastdual-loader", daemon=True)
        self._thread.start()

    def take(self) -> Assembled:
        """Wait for the next batch.

        Raises:
            FailureError: The loader was closed meanwhile, or DALI hangs.
            BaseException: Whatever ended the thread, again at each call.
        """
        while True:
            try:
                item = self._queue.get(timeout=_POLL_SECONDS)
                break
            except queue.Empty:
                hangs = self._hangs()
                if hangs is not None:
                    raise FailureError(hangs) from None
                if not self._thread.is_alive() and self._queue.empty():
                    raise FailureError("the loader was closed while it was read") from None
        if isinstance(item, BaseException):
            self._put(item)  # for the next call
            raise item
        assembled, ready = item
        if ready is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(ready)
            assembled.clips.record_stream(stream)
        return assembled

    @property
    def idle_seconds(self) -> float:
        """See `Assembler`."""
        return 0.0 if self._assembler is None else self._assembler.idle_seconds

    def stop(self) -> None:
        """Stop the thread and its workers and drop what waits; may be called twice."""
        self._stopping.set()
        if self._assembler is not None:
            self._assembler.interrupt()
        # The garbage collector may call this in one of these threads, which cannot wait for itself.
        # A thread that hangs inside DALI is left behind; it ends with the process.
        ours = threading.current_thread().name.startswith("fastdual-")
        if not ours and self._hangs() is None:
            self._thread.join()
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()

    def _hangs(self) -> str | None:
        return None if self._assembler is None else self._assembler.overdue()

    def _run(self) -> None:
        try:
            self._assembler = self._make_assembler()
            for assembled, ready in self._batches(self._assembler):
                if not self._put((assembled, ready)):
                    break
        except BaseException as error:  # for the consumer to see
            self._put(error)
        finally:
            if self._assembler is not None:
                self._assembler.close()

    def _batches(self, assembler: Assembler) -> Iterator[tuple[Assembled, Any]]:
        spans = self._until_stopped()
        if self._device.type == "cpu":
            for assembled in assembler.batches(spans):
                yield assembled, None
            return
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        with torch.cuda.device(self._device), torch.cuda.stream(stream):
            for assembled in assembler.batches(spans):
                yield assembled, stream.record_event()

    def _until_stopped(self) -> Iterator[Span]:
        for span in self._spans:
            if self._stopping.is_set():
                return
            yield span

    def _put(self, item: tuple[Assembled, Any] | BaseException) -> bool:
        while not self._stopping.is_set():
            try:
                self._queue.put(item, timeout=_POLL_SECONDS)
                return True
            except queue.Full:
                continue
        return False
