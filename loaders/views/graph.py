"""The graphs that fill rows of a batch: DALI decodes, and DALI or Triton makes the views.

DALI and Triton are imported where a graph is built, so that nothing else needs them. Where PyAV
decodes for a CPU, `views.augment` makes the same views without a graph, at less cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastdual.loaders.plan import ClipPlan, ClipSpec
from fastdual.loaders.views.augment import frame_order, gaussian, num_chains

Ints = NDArray[np.int64]
Source = Literal["frames", "encoded"]


class Made(NamedTuple):
    """What a graph makes.

    Attributes:
        views: V of [B, T, H, W, C], float32.
        pictures: [B, h, w, 3] uint8, one decoded frame per video; None where PyAV decoded.
    """

    views: list[Tensor]
    pictures: Tensor | None


class Rows(NamedTuple):
    """Rows `numbers` of a batch `clips` [B, V, T, H, W, C]."""

    clips: Tensor
    numbers: Ints


class ClipGraph:
    """A built graph that augments batches of at most `max_batch_size` videos.

    Args:
        spec: What is made of each video.
        source: The input: decoded frames or encoded bytes.
        device: Where the graph runs; a CUDA device also receives the result.
        max_batch_size: Videos per call at most.
        num_threads: DALI's worker threads.
    """

    def __init__(
        self,
        spec: ClipSpec,
        *,
        source: Source,
        device: torch.device,
        max_batch_size: int,
        num_threads: int,
    ) -> None:
        from fastdual.loaders.views.pipeline import clip_pipeline

        self._spec, self._device = spec, device
        self._pipeline = clip_pipeline(
            spec,
            source=source,
            batch_size=max_batch_size,
            num_threads=num_threads,
            **_place(device),
        )
        self._pipeline.build()

    def run(self, plan: ClipPlan, order: Ints, decoded: dict[str, Any]) -> Made:
        """Augment one batch.

        Args:
            plan: The values for these videos.
            order: [B, K, T] places of the clips' frames among the frames that are fed.
            decoded: The input "frames", or what `encoded_inputs` returns.

        Returns:
            The views, and the pictures that are watched; in DALI's memory, ready on the current
            stream.

        Raises:
            RuntimeError: DALI could not decode one of the videos.
        """
        inputs = graph_inputs(self._spec, plan, order)
        outputs = self._pipeline.run(_stream(self._device), **decoded, **inputs)
        views = [torch.utils.dlpack.from_dlpack(values.as_tensor()) for values in outputs]
        pictures = views.pop()[:, 0] if "encoded" in decoded else None
        if self._spec.mode == "evaluate":
            clips, frames = plan.frames.shape[1:]
            long = views[0]
            views = list(long.reshape(len(plan), clips, frames, *long.shape[2:]).unbind(1))
        return Made(views, pictures)

    def fill(
        self, plan: ClipPlan, order: Ints, decoded: dict[str, Any], rows: Sequence[Rows]
    ) -> Tensor | None:
        """As `run`, but put the views into rows of batches; return the pictures alone."""
        made = self.run(plan, order, decoded)
        for part, (clips, numbers) in _parts(rows):
            first, last = int(numbers[0]), int(numbers[-1])
            places: slice | Tensor = slice(first, last + 1)
            if not np.array_equal(numbers, np.arange(first, last + 1)):
                places = torch.from_numpy(numbers).to(clips.device)
            for view, values in enumerate(made.views):
                clips[places, view] = values[part].to(clips.dtype)
        return made.pictures

    def close(self) -> None:
        """Free the graph; one that has failed must not be used again."""
        del self._pipeline


class FusedGraph:
    """DALI decodes, if anything is to be decoded, and `views.fused` makes the views.

    Args:
        spec, source, device, max_batch_size, num_threads: As for `ClipGraph`.
    """

    def __init__(
        self,
        spec: ClipSpec,
        *,
        source: Source,
        device: torch.device,
        max_batch_size: int,
        num_threads: int,
    ) -> None:
        self._spec, self._device, self._pipeline = spec, device, None
        if source == "encoded":
            from fastdual.loaders.views.pipeline import frames_pipeline

            self._pipeline = frames_pipeline(
                spec, batch_size=max_batch_size, num_threads=num_threads, **_place(device)
            )
            self._pipeline.build()

    def fill(
        self, plan: ClipPlan, order: Ints, decoded: dict[str, Any], rows: Sequence[Rows]
    ) -> Tensor | None:
        """As `ClipGraph.fill`."""
        from fastdual.loaders.views import fused

        pictures = None
        if self._pipeline is None:
            frames, first = self._joined(decoded["frames"])
        else:
            outputs = self._pipeline.run(_stream(self._device), **decoded)
            padded, watched = (torch.utils.dlpack.from_dlpack(o.as_tensor()) for o in outputs)
            frames, pictures = padded.flatten(0, 1), watched[:, 0]
            first = self._spec.most_frames * np.arange(len(plan))
        numbers = order + first[:, None, None]
        for part, (clips, places) in _parts(rows):
            tables = fused.tables(self._spec, plan[part], numbers[part], places)
            fused.make_views(frames, self._spec, tables, clips)
        return pictures

    def _joined(self, videos: Sequence[NDArray[np.uint8]]) -> tuple[Tensor, Ints]:
        """Copy the frames of all videos to the device; return them, and where each begins."""
        ends = np.cumsum([len(frames) for frames in videos])
        joined = torch.empty(
            (int(ends[-1]), *videos[0].shape[1:]), dtype=torch.uint8, device=self._device
        )
        first = np.concatenate([[0], ends[:-1]])
        for start, frames in zip(first.tolist(), videos, strict=True):
            joined[start : start + len(frames)].copy_(torch.from_numpy(frames))
        return joined, first

    def close(self) -> None:
        """Free the graph."""
        self._pipeline = None


def _parts(rows: Sequence[Rows]) -> Iterator[tuple[slice, Rows]]:
    """Yield the rows of each batch, and which of all videos they are."""
    start = 0
    for part in rows:
        yield slice(start, start + len(part.numbers)), part
        start += len(part.numbers)


def _place(device: torch.device) -> dict[str, Any]:
    """Return where a pipeline runs; one batch at a time."""
    on_gpu = device.type == "cuda"
    return {
        "device": "gpu" if on_gpu else "cpu",
        "device_id": device.index if on_gpu else None,
        "prefetch_queue_depth": 1,
    }


def _stream(device: torch.device) -> int | None:
    on_gpu = device.type == "cuda"
    return torch.cuda.current_stream(device).cuda_stream if on_gpu else None


def graph_inputs(spec: ClipSpec, plan: ClipPlan, order: Ints) -> dict[str, Any]:
    """Return the plan as the graph's inputs, arrays or lists of B values.

    Args:
        spec: Of the plan.
        plan: Of B videos.
        order: [B, K, T] places of the clips' frames among the frames that are fed.
    """
    inputs: dict[str, Any] = {}
    margin_y = max(spec.resize_height - spec.crop_size, 1)
    margin_x = max(spec.resize_width - spec.crop_size, 1)
    for view in range(num_chains(spec)):
        clips = order if spec.mode == "evaluate" else order[:, spec.view_clip[view]]
        inputs[f"order{view}"] = clips.reshape(len(plan), -1).astype(np.int32)
        inputs[f"crop_y{view}"] = (plan.crop_y[:, view] / margin_y).astype(np.float32)
        inputs[f"crop_x{view}"] = (plan.crop_x[:, view] / margin_x).astype(np.float32)
        if spec.is_flipped:
            inputs[f"flip{view}"] = np.ascontiguousarray(plan.flip[:, view])
        if spec.mode != "evaluate":
            inputs[f"jitter{view}"] = plan.jitter[:, view].astype(np.float32)
            inputs[f"jittered{view}"] = (plan.jitter[:, view] != (1, 1, 1, 0)).any(axis=1)
        if spec.is_blurred:
            weights = [gaussian(sigma) for sigma in plan.blur_sigma[:, view]]
            inputs[f"blurred{view}"] = plan.blur_sigma[:, view] > 0
            inputs[f"blur_column{view}"] = [w[:, None] for w in weights]
            inputs[f"blur_row{view}"] = [w[None, :] for w in weights]
    if plan.permutation is not None:
        inputs["shuffled_order"] = frame_order(plan.permutation, spec.frames_per_clip)
    return inputs


def encoded_inputs(
    spec: ClipSpec,
    encoded: Sequence[NDArray[np.uint8]],
    wanted: Sequence[Ints],
    rotations: Ints,
    watched: Ints,
) -> dict[str, Any]:
    """Return the inputs of the decoding graph for B files.

    Args:
        spec: For the size after resizing.
        encoded: B arrays of the files' bytes.
        wanted: B arrays of frame numbers to decode, strictly increasing.
        rotations: [B] clockwise degrees that make the decoded pictures upright.
        watched: [B] places of the frames that are returned as decoded.
    """
    upright = np.array([spec.resize_height, spec.resize_width], np.float32)
    lying = (rotations % 180 != 0)[:, None]
    return {
        "encoded": list(encoded),
        "wanted": [numbers.astype(np.int32) for numbers in wanted],
        "decoded_size": np.where(lying, upright[::-1], upright),
        "quarter_turns": (rotations // 90).astype(np.int32),
        "watched": watched.astype(np.int32)[:, None],
    }
