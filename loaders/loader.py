"""ClipLoader: batches of augmented clips, made in the background, resumable from (epoch, step)."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeGuard

import numpy as np
import torch
from torch import Tensor

from fastdual.errors import InputError, shown
from fastdual.loaders.batch.assemble import Assembler
from fastdual.loaders.batch.clip_batch import ClipBatch as ClipBatch
from fastdual.loaders.batch.decoded_by import DecodedBy
from fastdual.loaders.batch.decoder import (
    Requested,
    RequestedAugment,
    choose_augment,
    choose_decoder,
)
from fastdual.loaders.batch.producer import Producer
from fastdual.loaders.batch.routing import Routing
from fastdual.loaders.batch.rows import Assembled, Span
from fastdual.loaders.index.request import (
    Videos,
    check_counts,
    check_others,
    clip_device,
    clip_spec,
    open_videos,
)
from fastdual.loaders.order import EpochOrder, check_world, rank_span
from fastdual.loaders.plan import ClipSpec
from fastdual.loaders.pool.cpus import available_cpus
from fastdual.loaders.views.transform import Transform, transformed

_TIMEOUT_SECONDS = 60.0  # a video that is decoded longer has failed; most take well below 1 s


class ClipLoader:
    """Loads augmented clips of videos; iterate over it for one epoch at a time.

        loader = ClipLoader("videos/", frames_per_clip=16, batch_size=8)
        for batch in loader:
            view_0, view_1 = batch.clips.unbind(1)  # [8, 3, 16, 112, 112] each

    Iteration starts at the state (epoch, step), ends with that epoch and leaves the state at the
    start of the next. Batches are made in a background thread; close the loader, or use it as a
    context manager, to end its workers at once (they end with the process in any case).

    Args:
        videos: A folder, a CSV file, an index or a pack; one video or a list of them; or a
            VideoIndex.
        spec: What is sampled and how it is augmented; None: as the `clip` keywords say.
        batch_size: Videos of the global batch; each rank yields its contiguous part.
        split: Named split of the index; None for all videos.
        seed: Of the order and of every augmentation.
        rank, world_size: This process among those that share each batch.
        device: Where the clips are to be.
        decode: Decoder, see `batch.decoder`; `decode_choice` tells which was chosen and why. One
            that is named decodes every video, or there is an error; with "auto", PyAV decodes what
            the other cannot, and `decoded_by` says how much.
        augment: Who augments on a GPU: DALI, or one Triton kernel; "auto" is DALI.
        dtype: float32, float16 or bfloat16.
        num_workers: Processes that decode with PyAV; None for one per CPU.
        local_world_size: Processes that share this machine's CPUs.
        prefetch: Finished batches that wait at most.
        shuffle: Permute the videos in each epoch.
        drop_last: Leave out an incomplete last batch; otherwise it is yielded short.
        quarantine_path: JSON lines of the videos that fail are appended here.
        timeout_seconds: A video that takes longer to decode has failed.
        transform: Your own augmentation of a view, float32 RGB in [0, 1], [T, 3, H, W] as
            torchvision has it, in place of ours; its result is `clips`, not normalised. It runs in
            the process that iterates, with torch's generator seeded by (seed, epoch, video, view).
        clip: Fields of ClipSpec, and `num_views`: 2 views of each video, each of another clip,
            unless said otherwise. `crop_size` alone scales the size before the crop with it.

    Attributes:
        index: The videos, as a VideoIndex.
        spec: What is sampled of them, as a ClipSpec.
        decode_choice: The decoder and the reason for it.
        decoded_by: Videos shown so far, by who decoded them.
        data_wait_seconds: Time that the consumer has waited for batches.

    Raises:
        InputError: An argument does not fit, or there are no such videos or split.
        TypeError: There is no such clip keyword.
    """

    def __init__(
        self,
        videos: Videos,
        spec: ClipSpec | None = None,
        *,
        batch_size: int,
        split: str | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        device: str | torch.device = "cpu",
        decode: Requested = "auto",
        augment: RequestedAugment = "auto",
        dtype: torch.dtype = torch.float32,
        num_workers: int | None = None,
        local_world_size: int = 1,
        prefetch: int = 2,
        shuffle: bool = True,
        drop_last: bool = True,
        quarantine_path: Path | None = None,
        timeout_seconds: float = _TIMEOUT_SECONDS,
        transform: Transform | None = None,
        **clip: Any,
    ) -> None:
        check_counts(batch_size=batch_size, prefetch=prefetch, num_workers=num_workers)
        check_others(dtype, seed, timeout_seconds, transform)
        check_world(rank=rank, world_size=world_size, global_batch_size=batch_size)
        self._device = clip_device(device)
        self.spec = spec = clip_spec(spec, clip, is_transformed=transform is not None)
        self.index = index = open_videos(videos)
        how: dict[str, Any] = {"seed": seed, "shuffle": shuffle, "drop_last": drop_last}
        self._order = EpochOrder(index.split(split), global_batch_size=batch_size, **how)
        self._order_of = {"batch_size": batch_size, "split": split, **how}
        self.decode_choice = choose_decoder(decode, self._device.type, augment)
        by = choose_augment(augment, self._device.type, self.decode_choice.decoder)
        routing = Routing(index, index.split(split), self.decode_choice, self._device)
        self.decoded_by = DecodedBy()
        self._spans_from = partial(_spans, self._order, rank, world_size, shuffle)
        self._endless, self._prefetch = shuffle, prefetch
        self._transform, self._seed = transform, seed
        self._epoch, self._step = 0, 0
        self.data_wait_seconds = 0.0
        cpus = available_cpus(local_world_size)
        # Of the loader itself the thread may hold nothing, or the loader could not be collected.
        self._make_assembler = partial(
            Assembler, index, spec, self._order, seed=seed, device=self._device,
            routing=routing, augment=by, dtype=dtype, timeout_seconds=timeout_seconds,
            num_workers=num_workers or cpus, num_cpus=cpus, quarantine_path=quarantine_path,
        )  # fmt: skip
        self._producer: Producer | None = None
        self._at_exit: weakref.finalize[..., ClipLoader] | None = None

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return self._order.batches_per_epoch

    def __repr__(self) -> str:
        spec, split = self.spec, self._order_of["split"]
        named = "" if split is None else f" of the split {split!r}"
        return (
            f"ClipLoader({self._order.num_videos:,} videos{named} in {self.index.root}, "
            f"{len(self)} batches of {self._order.global_batch_size}, {spec.num_views} views "
            f"{[3, *spec.clip_shape]} at stride {spec.frame_stride}, decoded by "
            f"{self.decode_choice.decoder}, at epoch {self._epoch}, step {self._step})"
        )

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

    @property
    def worker_idle_seconds(self) -> float:
        """Time that the decoding workers have waited for a video, of all together."""
        return 0.0 if self._producer is None else self._producer.idle_seconds

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the data as plain values: (epoch, step) and what they belong to."""
        return {"epoch": self._epoch, "step": self._step, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a place that `state_dict` returned, on any number of ranks; nothing is read again.

        Raises:
            InputError: The state is of other data, another seed or another batch size.
        """
        for name, ours in self._identity().items():
            if not isinstance(state, Mapping) or name not in state:
                raise InputError(f"{shown(state)} is no loader's state: give what state_dict gave")
            if state[name] != ours:
                raise InputError(
                    f"the loader's state was saved with {name} {state[name]!r}, here it is "
                    f"{ours!r}; resume with the same data, seed and batch size"
                )
        epoch, step = state.get("epoch"), state.get("step")
        if not (_is_count(epoch, 2**64) and _is_count(step, len(self))):
            raise InputError(f"the loader's state is damaged: epoch {epoch}, step {step}")
        self._go_to(epoch, step)

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be this epoch, from its start; without it, epochs count up.

        Raises:
            InputError: No number of an epoch.
        """
        if not _is_count(epoch, 2**64):
            raise InputError(f"epoch is {epoch!r}; must be a whole number, 0 or more")
        self._go_to(epoch, 0)

    def _go_to(self, epoch: int, step: int) -> None:
        if (epoch, step) != (self._epoch, self._step):
            self.close()
        self._epoch, self._step = epoch, step

    def close(self) -> None:
        """Stop the background work; iterating again starts it again."""
        if self._producer is not None and self._at_exit is not None:
            self._producer.stop()
            self._at_exit.detach()  # it would keep the producer alive
            self._producer = self._at_exit = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy, also in another process, goes on from the same place with workers of its own."""
        return {**self.__dict__, "_producer": None, "_at_exit": None}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _identity(self) -> dict[str, Any]:
        """What (epoch, step) belong to; the fingerprint takes a while for millions of videos."""
        return {**self._order_of, "index": self.index.fingerprint}

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
        labels = self.index.labels[plan.videos].astype(np.int64)
        permutation = None if plan.permutation is None else self._to_device(plan.permutation)
        clips = assembled.clips.permute(0, 1, 5, 2, 3, 4)
        if self._transform is not None:
            key = self._seed, assembled.span.epoch
            clips = transformed(clips, self._transform, self.spec, key=key, videos=plan.videos)
        self.decoded_by.add(assembled.decoded)
        return ClipBatch(
            clips=clips,
            permutation=permutation,
            video_ids=self._to_device(plan.videos),
            labels=self._to_device(labels),
            plan=plan,
            decoders=tuple(decoder for decoder, _ in assembled.decoded),
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


def _is_count(value: Any, limit: int) -> TypeGuard[int]:
    return isinstance(value, int) and 0 <= value < limit
