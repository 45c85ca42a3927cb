"""The DALI graph of `views.pipeline`, built, fed from the plan and run.

DALI is imported where a graph is built, so that nothing else needs it. Where PyAV decodes for a
CPU, `views.augment` makes the same views without this graph, at less cost.
"""

from __future__ import annotations

from collections.abc import Sequence
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
            device="gpu" if device.type == "cuda" else "cpu",
            batch_size=max_batch_size,
            num_threads=num_threads,
            device_id=device.index if device.type == "cuda" else None,
            prefetch_queue_depth=1,
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
        stream = None
        if self._device.type == "cuda":
            stream = torch.cuda.current_stream(self._device).cuda_stream
        inputs = graph_inputs(self._spec, plan, order)
        outputs = self._pipeline.run(stream, **decoded, **inputs)
        views = [torch.utils.dlpack.from_dlpack(values.as_tensor()) for values in outputs]
        pictures = views.pop()[:, 0] if "encoded" in decoded else None
        if self._spec.mode == "evaluate":
            clips, frames = plan.frames.shape[1:]
            long = views[0]
            views = list(long.reshape(len(plan), clips, frames, *long.shape[2:]).unbind(1))
        return Made(views, pictures)

    def close(self) -> None:
        """Free the graph; one that has failed must not be used again."""
        del self._pipeline


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
