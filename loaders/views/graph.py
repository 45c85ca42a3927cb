"""The DALI graph: from decoded frames to normalised views, every value fed in from the plan.

There is no random operator here, and the graph is the same on a CPU and on a GPU and for every
decoder. `clip_pipeline` is the recipe.

`views.augment` defines the colour map and the blur; where PyAV decodes for a CPU, it makes the same
views without this graph, at less cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import fn, math, pipeline_def, types
from torch import Tensor

from fastdual.loaders.decode.encoded import Encoded, read_encoded
from fastdual.loaders.plan import ClipPlan, ClipSpec
from fastdual.loaders.views.augment import MEAN, STD, frame_order, gaussian

Ints = NDArray[np.int64]
Source = Literal["frames", "encoded"]


@pipeline_def(enable_conditionals=True, exec_dynamic=True)  # type: ignore[untyped-decorator]
def clip_pipeline(spec: ClipSpec, *, source: Source, device: str) -> tuple[Any, ...]:
    """Decode or take the frames of one video, then make each view.

    Inputs per sample (external sources): `frames` [F, h, w, 3] uint8 of the resized size, or those
    of `_decode`; and the values that `graph_inputs` takes from the plan.

    Returns:
        One [T, H, W, C] output per view.
    """
    if source == "frames":
        frames = fn.external_source(name="frames", layout="FHWC", no_copy=True)
        frames = frames.gpu() if device == "gpu" else frames
    else:
        frames = _decode(device)
    views = [_augment(spec, frames, view, device) for view in range(_num_chains(spec))]
    if spec.mode == "pretrain":
        views.append(fn.sequence_rearrange(views[2], new_order=_value("shuffled_order")))
    return tuple(views)


def _decode(device: str) -> Any:
    """Decode the wanted frames, resize them, correct their colours and turn them upright."""
    frames = fn.decoders.video(
        _value("encoded"),
        device="mixed" if device == "gpu" else "cpu",
        frames=_value("wanted"),
        pad_mode="none",
    )
    frames = fn.resize(frames, size=_value("decoded_size"))
    if _value("miscoloured"):
        frames = fn.coord_transform(frames, M=_value("colour_matrix"), dtype=types.UINT8)
    quarter_turns = _value("quarter_turns")
    if quarter_turns != 0:
        frames = fn.rotate(
            frames, angle=-90.0 * quarter_turns, interp_type=types.INTERP_NN, keep_size=False
        )
    return frames


def _augment(spec: ClipSpec, frames: Any, view: int, device: str) -> Any:
    """Make one view: its frames, crop, colour, blur, flip and normalisation."""
    clip = fn.sequence_rearrange(frames, new_order=_value(f"order{view}"))
    clip = fn.crop(
        clip,
        crop=(spec.crop_size, spec.crop_size),
        crop_pos_y=_value(f"crop_y{view}"),
        crop_pos_x=_value(f"crop_x{view}"),
    )
    if spec.mode != "evaluate":
        jitter = _value(f"jitter{view}")
        if _value(f"jittered{view}"):
            clip = fn.color_twist(
                clip,
                brightness=jitter[0],
                contrast=jitter[1],
                saturation=jitter[2],
                hue=jitter[3],
                dtype=types.FLOAT,
            )
            clip = math.min(math.max(clip, 0.0), 255.0)
        else:
            clip = fn.cast(clip, dtype=types.FLOAT)
    if spec.mode == "pretrain" and _value(f"blurred{view}"):
        clip = fn.filter(clip, _value(f"blur_column{view}"), border="reflect_101")
        clip = fn.filter(clip, _value(f"blur_row{view}"), border="reflect_101")
    if spec.mode == "finetune" and _value(f"flip{view}"):
        clip = fn.flip(clip, horizontal=1)
    return _normalise(spec, clip, device)


def _normalise(spec: ClipSpec, clip: Any, device: str) -> Any:
    """Subtract ImageNet's mean and divide by its deviation, per channel.

    On a CPU crop_mirror_normalize takes five times as long as `normalize` over rows of pixels.
    """
    if device == "gpu":
        return fn.crop_mirror_normalize(
            clip, mean=MEAN, std=STD, dtype=types.FLOAT, output_layout="FHWC"
        )
    size = spec.crop_size
    rows = fn.normalize(
        fn.reshape(clip, shape=[-1, size * 3]),
        axes=[0],
        mean=np.tile(np.array(MEAN, np.float32), size)[None],
        stddev=np.tile(np.array(STD, np.float32), size)[None],
        dtype=types.FLOAT,
    )
    return fn.reshape(rows, shape=[-1, size, size, 3], layout="FHWC")


def _value(name: str) -> Any:
    return fn.external_source(name=name, no_copy=True)


def _num_chains(spec: ClipSpec) -> int:
    """Evaluation cuts all its clips in the same way, so one long chain makes them all."""
    return 1 if spec.mode == "evaluate" else len(spec.view_clip)


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

    def run(self, plan: ClipPlan, order: Ints, decoded: dict[str, Any]) -> list[Tensor]:
        """Augment one batch.

        Args:
            plan: The values for these videos.
            order: [B, K, T] places of the clips' frames among the frames that are fed.
            decoded: The input "frames", or what `encoded_inputs` returns.

        Returns:
            V views [B, T, H, W, C], float32, in DALI's memory, ready on the current stream.

        Raises:
            RuntimeError: DALI could not decode one of the videos.
        """
        stream = None
        if self._device.type == "cuda":
            stream = torch.cuda.current_stream(self._device).cuda_stream
        inputs = graph_inputs(self._spec, plan, order)
        outputs = self._pipeline.run(stream, **decoded, **inputs)
        views = [torch.utils.dlpack.from_dlpack(values.as_tensor()) for values in outputs]
        if self._spec.mode == "evaluate":
            clips, frames = plan.frames.shape[1:]
            return list(views[0].reshape(len(plan), clips, frames, *views[0].shape[2:]).unbind(1))
        return views

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
    for view in range(_num_chains(spec)):
        clips = order if spec.mode == "evaluate" else order[:, spec.view_clip[view]]
        inputs[f"order{view}"] = clips.reshape(len(plan), -1).astype(np.int32)
        inputs[f"crop_y{view}"] = (plan.crop_y[:, view] / margin_y).astype(np.float32)
        inputs[f"crop_x{view}"] = (plan.crop_x[:, view] / margin_x).astype(np.float32)
        if spec.mode == "finetune":
            inputs[f"flip{view}"] = plan.flip[:, view]
        if spec.mode != "evaluate":
            inputs[f"jitter{view}"] = plan.jitter[:, view].astype(np.float32)
            inputs[f"jittered{view}"] = (plan.jitter[:, view] != (1, 1, 1, 0)).any(axis=1)
        if spec.mode == "pretrain":
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
    matrices: NDArray[np.float64],
) -> dict[str, Any]:
    """Return the inputs of the decoding graph for B files.

    Args:
        spec: For the size after resizing.
        encoded: B arrays of the files' bytes.
        wanted: B arrays of frame numbers to decode, strictly increasing.
        rotations: [B] clockwise degrees that make the decoded pictures upright.
        matrices: [B, 3, 3] from DALI's RGB to the right RGB.
    """
    upright = np.array([spec.resize_height, spec.resize_width], np.float32)
    lying = (rotations % 180 != 0)[:, None]
    return {
        "encoded": list(encoded),
        "wanted": [numbers.astype(np.int32) for numbers in wanted],
        "decoded_size": np.where(lying, upright[::-1], upright),
        "quarter_turns": (rotations // 90).astype(np.int32),
        "miscoloured": (matrices != np.eye(3)).any(axis=(1, 2)),
        "colour_matrix": matrices.astype(np.float32),
    }


def read_pinned(source: Encoded, device: torch.device) -> NDArray[np.uint8]:
    """Read a video's bytes, for a GPU into pinned memory; raises as `read_encoded` does."""
    encoded = read_encoded(source)
    if device.type != "cuda":
        return encoded
    with torch.cuda.device(device):
        pinned = torch.empty(len(encoded), dtype=torch.uint8, pin_memory=True).numpy()
    np.copyto(pinned, encoded)
    return pinned
