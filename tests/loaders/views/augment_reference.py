"""The augmentation once more, in float64 and numpy, read off METHOD's words and not off the graph.

Slow and plain on purpose: it is what the DALI graph is compared with.
"""

import numpy as np
from numpy.typing import NDArray

from fastdual.loaders.plan import ClipPlan, ClipSpec

MEAN = np.array([0.485, 0.456, 0.406]) * 255
STD = np.array([0.229, 0.224, 0.225]) * 255
RGB_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])


def reference_views(
    video: NDArray[np.uint8], plan: ClipPlan, spec: ClipSpec
) -> NDArray[np.float64]:
    """Views of the first video of a plan.

    Args:
        video: [N, h, w, 3] all its frames, already resized.
        plan: its first row is used.
        spec: of the plan.

    Returns:
        [V, T, H, W, 3].
    """
    views = []
    for view, clip in enumerate(plan.view_clip):
        y, x = plan.crop_y[0, view], plan.crop_x[0, view]
        frames = video[plan.frames[0, clip]].astype(np.float64)
        frames = frames[:, y : y + spec.crop_size, x : x + spec.crop_size]
        grey = (frames @ RGB_TO_YIQ[0]).mean() if spec.contrast_about == "mean" else 128.0
        frames = jitter(frames, *plan.jitter[0, view], grey)
        frames = blur(frames, plan.blur_sigma[0, view])
        if plan.flip[0, view]:
            frames = frames[:, :, ::-1]
        views.append((frames - MEAN) / STD)
    if plan.permutation is not None:
        segments = np.split(views[-1], spec.num_segments)
        views.append(np.concatenate([segments[s] for s in plan.permutation[0]]))
    return np.stack(views)


def jitter(
    frames: NDArray[np.float64],
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
    grey: float,
) -> NDArray[np.float64]:
    """Turn and stretch the I-Q plane, then contrast about a grey, then brightness, then clamp."""
    angle = np.deg2rad(hue)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    chroma = np.eye(3)
    chroma[1:, 1:] = saturation * turn
    to_rgb = np.linalg.inv(RGB_TO_YIQ)
    mixed = frames @ (to_rgb @ chroma @ RGB_TO_YIQ).T
    return np.clip(brightness * (contrast * (mixed - grey) + grey), 0, 255)


def blur(frames: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Convolve height and width with a Gaussian cut off at 3 sigma, mirrored at the border."""
    if sigma == 0:
        return frames
    reach = int(np.ceil(3 * sigma))
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    for axis in (1, 2):
        length = frames.shape[axis]
        margins = [(reach, reach) if a == axis else (0, 0) for a in range(4)]
        padded = np.pad(frames, margins, mode="reflect")
        frames = sum(
            weight * np.take(padded, range(shift, shift + length), axis)
            for shift, weight in enumerate(weights)
        )
    return frames
