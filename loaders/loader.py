"""ClipLoader: batches of augmented clips, made in the background, resumable from (epoch, step)."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeGuard

import numpy as np
import torch
from torch import Tensor

from fastdual.errors import InputError
from fastdual.loaders.batch.assemble import Assembler
from fastdual.loaders.batch.decoder import Requested, available_cpus, choose_decoder
from fastdual.loaders.batch.producer import Producer
from fastdual.loaders.batch.rows import Assembled, Span
from fastdual.loaders.index.table import VideoIndex
from fastdual.loaders.order import EpochOrder, check_world, rank_span
from fastdual.loaders.plan import ClipPlan, ClipSpec

_TIMEOUT_SECONDS = 60.0  # a video that is decoded longer has failed; most take well below 1 s


@dataclass(frozen=True)
class ClipBatch:
    """The views of B videos.

    Attributes:
        clips: [B, V, C, T, H, W], normalised; pretraining's views are 0, 1, 2 and the shuffled one.
            The memory is channels-last: `clips.flatten(0, 1)` is channels_last_3d.
        permutation: [B, S] int64, or None; shuffled segment i is segment permutation[i] of view 2.
        video_ids: [B] int64 index numbers of the videos shown.
        labels: [B] int64 class numbers, -1 for none.
        plan: The decisions behind the clips.
    """

    clips: Tensor
    permutation: Tensor | None
    video_ids: Tensor
    labels: Tensor
    plan: ClipPlan

    def __post_init__(self) -> None:
        sizes = [len(self.clips), len(self.video_ids), len(self.labels), len(self.plan)]
        if self.permutation is not None:
            sizes.append(len(self.permutation))
        if self.clips.ndim != 6 or len(set(sizes)) != 1:
            raise ValueError(
                f"clips {tuple(self.clips.shape)} must have 6 axes and as many rows as video_ids, "
                f"labels, plan and permutation: {sizes[1:]}"
            )

    def __repr__(self) -> str:
        shape, device = tuple(self.clips.shape), self.clips.device
        return f"ClipBatch(clips={shape} {self.clips.dtype} on {device})"


class ClipLoader:
    """Loads augmented clips of an index's videos; iterate over it for one epoch at a time.

    Iteration starts at the state (epoch, step), ends with that epoch and leaves the state at the
    start of the next. Batches are made in a background thread; close the loader, or use it as a
    context manager, to end its workers at once (they end with the process in any case).

    Args:
        index: The videos.
        spec: What is sampled and how it is augmented.
        batch_size: Videos of the global batch; each rank yields its contiguous part.
        split: Named split of the index; None for all videos.
        seed: Of the order and of every augmentation.
        rank, world_size: This process among those that share each batch.
        device: Where the clips are to be.
        decode: Decoder, see `batch.decoder`; `decode_choice` tells which was chosen and why.
        dtype: float32, float16 or bfloat16.
        num_workers: Processes that decode with PyAV; None for one per CPU.
        prefetch: Finished batches that wait at most.
        shuffle: Permute the videos in each epoch.
        drop_last: Leave out an incomplete last batch; otherwise it is yielded short.
        quarantine_path: JSON lines of the videos that fail are appended here.
        timeout_seconds: A video that takes longer to decode has failed.

    Attributes:
        decode_choice: The decoder and the reason for it.
        data_wait_seconds: Time that the consumer has waited for batches.

    Raises:
        InputError: An argument does not fit, or there is no such split.
    """

    def __init__(
        self,
        index: VideoIndex,
        spec: ClipSpec,
        *,
        batch_size: int,
        split: str | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        device: str | torch.device = "cpu",
        decode: Requested = "auto",
        dtype: torch.dtype = torch.float32,
        num_workers: int | None = None,
        prefetch: int = 2,
        shuffle: bool = True,
        drop_last: bool = True,
        quarantine_path: Path | None = None,
        timeout_seconds: float = _TIMEOUT_SECONDS,
    ) -> None:
        _check(dtype, prefetch, num_workers)
        check_world(rank=rank, world_size=world_size, global_batch_size=batch_size)
        self._index, self._device = index, _full_device(device)
        videos = index.split(split)
        self._order = EpochOrder(
            videos, global_batch_size=batch_size, seed=seed, shuffle=shuffle, drop_last=drop_last
        )
        self._order_of = {"seed": seed, "batch_size": batch_size, "split": split}
        self._order_of |= {"shuffle": shuffle, "drop_last": drop_last}
        self.decode_choice = choose_decoder(decode, self._device.type)
        self._spans_from = partial(_spans, self._order, rank, world_size, shuffle)
        self._endless, self._prefetch = shuffle, prefetch
        self._epoch, self._step = 0, 0
        self.data_wait_seconds = 0.0
        # Of the loader itself the thread may hold nothing, or the loader could not be collected.
        self._make_assembler = partial(
            Assembler, index, spec, self._order, seed=seed, device=self._device,
            choice=self.decode_choice, dtype=dtype, num_workers=num_workers or available_cpus(),
            timeout_seconds=timeout_seconds, quarantine_path=quarantine_path,
        )  # fmt: skip
        self._producer: Producer | None = None
        self._at_exit: weakref.finalize[..., ClipLoader] | None = None

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return self._order.batches_per_epoch

    @property
    def epoch(self) -> int:
        """Epoch of the next batch."""
        return self._epoch

    @property
    def step(self) -> int:
        """Number of the next batch in its epoch."""
        return self._step

    def __iter__(self) -> Iterator[ClipBatch]:
        epoch = self._epoch
        while self._epoch == epoch:
            yield self._next()

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the data as plain values: (epoch, step) and what they belong to."""
        return {"epoch": self._epoch, "step": self._step, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a place that `state_dict` returned, on any number of ranks; nothing is read again.

        Raises:
            InputError: The state is of other data, another seed or another batch size.
        """
        for name, ours in self._identity().items():
            if state.get(name) != ours:
                raise InputError(
                    f"the loader's state was saved with {name} {state.get(name)!r}, here it is "
                    f"{ours!r}; resume with the same data, seed and batch size"
                )
        epoch, step = state.get("epoch"), state.get("step")
        if not (_is_count(epoch, 2**64) and _is_count(step, len(self))):
            raise InputError(f"the loader's state is damaged: epoch {epoch}, step {step}")
        self.close()
        self._epoch, self._step = epoch, step

    def close(self) -> None:
        """Stop the background work; iterating again starts it again."""
        if self._producer is not None and self._at_exit is not None:
            self._producer.stop()
            self._at_exit.detach()  # it would keep the producer alive
            self._producer = self._at_exit = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _identity(self) -> dict[str, Any]:
        """What (epoch, step) belong to; the fingerprint takes a while for millions of videos."""
        return {**self._order_of, "index": self._index.fingerprint}

    def _next(self) -> ClipBatch:
        if self._producer is None:
            spans = self._spans_from(self._epoch, self._step)
            self._producer = Producer(self._make_assembler, spans, self._device, self._prefetch)
            # When the loader is collected, and at the interpreter's exit.
            self._at_exit = weakref.finalize(self, self._producer.stop)
        started = time.perf_counter()
        assembled = self._producer.take()
        self.data_wait_seconds += time.perf_counter() - started
        assert (assembled.span.epoch, assembled.span.step) == (self._epoch, self._step)
        self._step += 1
        if self._step == len(self):
            self._epoch, self._step = self._epoch + 1, 0
            if not self._endless:
                self.close()
        return self._to_batch(assembled)

    def _to_batch(self, assembled: Assembled) -> ClipBatch:
        plan = assembled.plan
        labels = self._index.labels[plan.videos].astype(np.int64)
        permutation = None if plan.permutation is None else self._to_device(plan.permutation)
        return ClipBatch(
            clips=assembled.clips.permute(0, 1, 5, 2, 3, 4),
            permutation=permutation,
            video_ids=self._to_device(plan.videos),
            labels=self._to_device(labels),
            plan=plan,
        )

    def _to_device(self, values: np.ndarray[Any, Any]) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(values))
        if self._device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)


def _spans(
    order: EpochOrder, rank: int, world_size: int, endless: bool, epoch: int, step: int
) -> Iterator[Span]:
    """Yield a rank's parts of the batches, from (epoch, step) on.

    Endless spans continue into the next epoch, so that its first batch is ready in time.
    """
    while True:
        for number in range(step, order.batches_per_epoch):
            part = rank_span(*order.span(number), rank=rank, world_size=world_size)
            yield Span(epoch, number, *part)
        if not endless:
            return
        epoch, step = epoch + 1, 0


def _check(dtype: torch.dtype, prefetch: int, num_workers: int | None) -> None:
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise InputError(f"dtype is {dtype}; choose float32, float16 or bfloat16")
    if prefetch < 1 or (num_workers is not None and num_workers < 1):
        raise InputError(f"prefetch {prefetch} and num_workers {num_workers} must be positive")


def _is_count(value: Any, limit: int) -> TypeGuard[int]:
    return isinstance(value, int) and 0 <= value < limit


def _full_device(device: str | torch.device) -> torch.device:
    try:
        full = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device {device!r} is unknown; use cpu, cuda or cuda:0") from error
    if full.type not in ("cpu", "cuda"):
        raise InputError(f"device {device!r} cannot load clips; use cpu or cuda")
    if full.type == "cuda":
        if not torch.cuda.is_available():
            raise InputError(f"device {device!r}: there is no CUDA device here; use cpu")
        full = torch.device("cuda", full.index or 0)
    return full
