"""The built graphs of a loader: run within a time limit, rebuilt after a failure, told by a reason.

A run that fails spoils the graph, and a run that hangs inside DALI cannot be interrupted. So the
thread that waits for batches asks `overdue`, and ends with a sentence in place of waiting for ever.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastdual.errors import FailureError
from fastdual.loaders.batch.decoder import Augment
from fastdual.loaders.plan import ClipPlan, ClipSpec
from fastdual.loaders.views.graph import ClipGraph, FusedGraph, Rows, Source

Ints = NDArray[np.int64]

_DALI_BYTES = 4 << 30
_MOST_OF_A_GPU = 1 / 8
_OUT_OF_MEMORY = re.compile(r"out of memory|allocat|bad_alloc", re.IGNORECASE)
# Lines around the one that says what happened.
_FRAME = re.compile(
    r"\s*(Critical error|Current pipeline|Error in \w+ operator|which was used|File |return |"
    r"encountered|C\+\+ context|Stacktrace|$)"
)


class GraphFailure(FailureError):
    """DALI could not do what it was given.

    Attributes:
        is_memory: Because memory ran out.
    """

    def __init__(self, error: RuntimeError) -> None:
        super().__init__(explain(str(error)))
        self.is_memory = _OUT_OF_MEMORY.search(str(error)) is not None


def explain(message: str) -> str:
    """Return the line of DALI's message that says what happened."""
    text = message.partition("encountered:")[2] or message
    lines = [line.strip() for line in text.splitlines() if not _FRAME.match(line)]
    said = lines[0] if lines else message.strip()
    return re.sub(r"^\[/\S+\] |^Assert on .* failed: ", "", said)


class Graphs:
    """Builds each graph when it is first needed.

    Args:
        spec: What is made of each video.
        device: Where the graphs run.
        max_rows: Videos per run at most.
        num_threads: DALI's worker threads.
        timeout_seconds: A run that takes longer is overdue.
        augment: Who makes the views.
    """

    def __init__(
        self,
        spec: ClipSpec,
        device: torch.device,
        *,
        max_rows: int,
        num_threads: int,
        timeout_seconds: float,
        augment: Augment,
    ) -> None:
        self._spec, self._timeout_seconds = spec, timeout_seconds
        self._kind = FusedGraph if augment == "triton" else ClipGraph
        self._device, self._max_rows, self._num_threads = device, max_rows, num_threads
        self._graphs: dict[Source, ClipGraph | FusedGraph] = {}
        self._running: tuple[float, str] | None = None

    def fill(
        self,
        source: Source,
        plan: ClipPlan,
        order: Ints,
        inputs: dict[str, Any],
        *,
        rows: Sequence[Rows],
        what: str,
    ) -> Tensor | None:
        """Put the views of some videos into rows of batches.

        Args:
            source: What `inputs` hold.
            plan, order, inputs: As `ClipGraph.run` takes them.
            rows: Where the videos belong, in their order.
            what: Names the videos if this takes too long.

        Returns:
            The pictures that are watched, see `Made`.

        Raises:
            GraphFailure: DALI could not decode one of the videos, or ran out of memory.
        """
        self._running = time.monotonic() + self._timeout_seconds, what
        try:
            if source not in self._graphs:
                self._graphs[source] = self._kind(
                    self._spec,
                    source=source,
                    device=self._device,
                    max_batch_size=self._max_rows,
                    num_threads=self._num_threads,
                )
            return self._graphs[source].fill(plan, order, inputs, rows)
        except RuntimeError as error:
            if source in self._graphs:
                self._graphs.pop(source).close()  # one that failed once cannot be used again
            raise GraphFailure(error) from error
        finally:
            self._running = None

    def overdue(self) -> str | None:
        """Return what takes too long, or None; may be called by any thread."""
        running = self._running
        if running is None or time.monotonic() < running[0]:
            return None
        return (
            f"DALI did not come back within {self._timeout_seconds:g} s from {running[1]}: its "
            "decoder hangs; use the decoder pyav"
        )

    def close(self) -> None:
        """Drop the graphs."""
        self._graphs.clear()


def leave_memory(device: torch.device) -> None:
    """Keep a share of a GPU's memory free of torch: what torch has cached, DALI cannot ask back.

    DALI is left 4 GiB, or an eighth of a small GPU: frames of 0.5 GB, the surfaces of its decoders
    and the views of a chunk.

    Args:
        device: On a CPU there is nothing to do.
    """
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        share = min(_DALI_BYTES / total, _MOST_OF_A_GPU)
        torch.cuda.set_per_process_memory_fraction(1 - share, device)
