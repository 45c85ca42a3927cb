"""The recipe of DALI's graph: from decoded frames to normalised views, every value from the plan.

There is no random operator here, and the graph is the same on a CPU and on a GPU and for every
decoder. `views.augment` defines the colour map and the blur. Importing this imports DALI.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from nvidia.dali import fn, math, pipeline_def, types

from fastdual.loaders.plan import ClipSpec
from fastdual.loaders.views.augment import LUMA, num_chains, pixel_scale


@pipeline_def(enable_conditionals=True, exec_dynamic=True)  # type: ignore[untyped-decorator]
def clip_pipeline(
    spec: ClipSpec, *, source: Literal["frames", "encoded"], device: str
) -> tuple[Any, ...]:
    """Decode or take the frames of one video, then make each view.

    Inputs per sample (external sources): `frames` [F, h, w, 3] uint8 of the resized size, or those
    of `_decode`; and the values that `graph_inputs` takes from the plan.

    Returns:
        One [T, H, W, C] output per view; from encoded videos also one decoded frame, the one at the
        place `watched`, [1, h, w, 3] uint8.
    """
    if source == "frames":
        frames = fn.external_source(name="frames", layout="FHWC", no_copy=True)
        frames = frames.gpu() if device == "gpu" else frames
    else:
        frames = _decode(device)
    views = [_augment(spec, frames, view, device) for view in range(num_chains(spec))]
    if spec.is_shuffled:
        views.append(fn.sequence_rearrange(views[-1], new_order=_value("shuffled_order")))
    if source == "encoded":
        views.append(fn.sequence_rearrange(frames, new_order=_value("watched")))
    return tuple(views)


@pipeline_def(enable_conditionals=True, exec_dynamic=True)  # type: ignore[untyped-decorator]
def frames_pipeline(spec: ClipSpec, *, device: str) -> tuple[Any, Any]:
    """Decode the wanted frames of one video and leave the views to `views.fused`.

    Inputs per sample: those of `_decode`, and `watched`.

    Returns:
        [most frames, h, w, 3] uint8, of which the last ones may be black; and the decoded frame
        at the place `watched`, [1, h, w, 3] uint8.
    """
    frames = _decode(device)
    padded = fn.pad(frames, axes=[0], shape=[spec.most_frames], fill_value=0)
    return padded, fn.sequence_rearrange(frames, new_order=_value("watched"))


def _decode(device: str) -> Any:
    """Decode the wanted frames, resize them and turn them upright.

    DALI converts every video by BT.601 and clips to bytes: others are not given to it.
    """
    frames = fn.decoders.video(
        _value("encoded"),
        device="mixed" if device == "gpu" else "cpu",
        frames=_value("wanted"),
        pad_mode="none",
    )
    frames = fn.resize(frames, size=_value("decoded_size"))
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
            twisted = fn.color_twist(
                clip,
                brightness=jitter[0],
                contrast=jitter[1],
                saturation=jitter[2],
                hue=jitter[3],
                dtype=types.FLOAT,
            )
            if spec.contrast_about == "mean":
                twisted = twisted + _off_middle_grey(clip, jitter, device)
            clip = math.min(math.max(twisted, 0.0), 255.0)
        else:
            clip = fn.cast(clip, dtype=types.FLOAT)
    if spec.is_blurred and _value(f"blurred{view}"):
        clip = fn.filter(clip, _value(f"blur_column{view}"), border="reflect_101")
        clip = fn.filter(clip, _value(f"blur_row{view}"), border="reflect_101")
    if spec.is_flipped and _value(f"flip{view}"):
        clip = fn.flip(clip, horizontal=1)
    return _normalise(spec, clip, device)


def _off_middle_grey(clip: Any, jitter: Any, device: str) -> Any:
    """Return what must be added where contrast turned about 128 and not about the mean luma."""
    grey = fn.reductions.sum(fn.reductions.mean(clip, axes=[0, 1, 2]) * LUMA)
    scale = jitter[0] * (1.0 - jitter[1])
    return (scale.gpu() if device == "gpu" else scale) * (grey - 128.0)


def _normalise(spec: ClipSpec, clip: Any, device: str) -> Any:
    """Subtract the mean and divide by the deviation, per channel.

    On a CPU crop_mirror_normalize takes five times as long as `normalize` over rows of pixels.
    """
    mean, std = pixel_scale(spec)
    if device == "gpu":
        return fn.crop_mirror_normalize(
            clip, mean=mean, std=std, dtype=types.FLOAT, output_layout="FHWC"
        )
    size = spec.crop_size
    rows = fn.normalize(
        fn.reshape(clip, shape=[-1, size * 3]),
        axes=[0],
        mean=np.tile(np.array(mean, np.float32), size)[None],
        stddev=np.tile(np.array(std, np.float32), size)[None],
        dtype=types.FLOAT,
    )
    return fn.reshape(rows, shape=[-1, size, size, 3], layout="FHWC")


def _value(name: str) -> Any:
    return fn.external_source(name=name, no_copy=True)
