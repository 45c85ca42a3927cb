"""The demo videos: small encoded files, drawn by a seed, that a laptop can learn something from.

A *scene* is a wide background texture; every scene shows each class once. A class is a look (shape,
pattern, hue) together with a way to move; two classes share each look, so that neither a single
frame nor the background tells the class. Scenes are split between train and test: nothing of a test
video was seen in training.

The camera pans over the texture and the light changes its strength and tint. So two clips of one
video share what moves and how rather than what stands behind it, and the parts of one clip differ
from each other: what the method learns from is there to be learned in minutes.
"""

import csv
import dataclasses
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastdual.demo.encode import encode_video
from fastdual.errors import InputError
from fastdual.loaders.files import check_folder, write

Array = NDArray[np.float64]
Pose = tuple[Array | float, Array | float, Array | float, Array | float]
Motion = Callable[[Array, float], Pose]
Shape = Callable[[Array, Array], tuple[Array, Array]]

FRAMES_PER_SECOND = 24
# Height x width, container and encoder: several of each, as real folders have.
FORMATS = (
    (96, 128, "mp4", "libx264"),
    (112, 144, "webm", "libvpx-vp9"),
    (128, 96, "mp4", "libx264"),
    (90, 160, "webm", "libvpx-vp9"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoSet:
    """How much to write.

    Attributes:
        train_scenes: Scenes in the split `train`, one video of each class per scene.
        test_scenes: Scenes in the split `test`.
        frames: Frames per video, from three quarters of this number up to it.
        seed: Everything drawn follows from it.
    """

    train_scenes: int = 16
    test_scenes: int = 12
    frames: int = 72
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("train_scenes", 1), ("test_scenes", 1), ("frames", 8), ("seed", 0)):
            value = getattr(self, name)
            if value < least:
                raise InputError(f"{name} is {value}; it must be at least {least}")


# Motions: time in seconds [T] and a tempo give x, y (-1..1 of the free space), size and angle.


def _triangle_wave(phase: Array) -> Array:
    return 2 * np.abs(2 * (phase - np.floor(phase + 0.5))) - 1


def _orbit(seconds: Array, tempo: float) -> Pose:
    turn = 2 * np.pi * 0.35 * tempo * seconds
    return 0.8 * np.cos(turn), 0.8 * np.sin(turn), 1.0, 0.0


def _bounce(seconds: Array, tempo: float) -> Pose:
    return 0.0, 0.9 - 1.8 * np.abs(np.sin(np.pi * 0.8 * tempo * seconds)), 1.0, 0.0


def _slide(seconds: Array, tempo: float) -> Pose:
    return _triangle_wave(0.3 * tempo * seconds), 0.0, 1.0, 0.0


def _spin(seconds: Array, tempo: float) -> Pose:
    return 0.0, 0.0, 1.0, 2 * np.pi * 0.5 * tempo * seconds


def _pulse(seconds: Array, tempo: float) -> Pose:
    return 0.0, 0.0, 1 + 0.6 * np.sin(2 * np.pi * 0.5 * tempo * seconds), 0.0


def _zigzag(seconds: Array, tempo: float) -> Pose:
    slow, quick = _triangle_wave(0.2 * tempo * seconds), _triangle_wave(0.9 * tempo * seconds)
    return 0.9 * slow, 0.7 * quick, 1.0, 0.0


def _swing(seconds: Array, tempo: float) -> Pose:
    angle = 1.1 * np.sin(2 * np.pi * 0.45 * tempo * seconds)
    return 0.9 * np.sin(angle), 1.3 * np.cos(angle) - 0.9, 1.0, -angle


def _hop(seconds: Array, tempo: float) -> Pose:
    # Stands still, then jumps to the next of four corners.
    corner = np.floor(1.2 * tempo * seconds).astype(int) % 4
    x, y = np.array([-0.7, 0.7, 0.7, -0.7])[corner], np.array([-0.7, -0.7, 0.7, 0.7])[corner]
    return x, y, 1.0, 0.0


# Shapes: signed distance (negative inside) and pattern (-1 dark, 1 bright) for coordinates in units
# of the radius.


def _disc(x: Array, y: Array) -> tuple[Array, Array]:
    return np.hypot(x, y) - 1, _stripes(y)


def _square(x: Array, y: Array) -> tuple[Array, Array]:
    return np.maximum(np.abs(x), np.abs(y)) - 0.85, _stripes(x) * _stripes(y)


def _cross(x: Array, y: Array) -> tuple[Array, Array]:
    wide = np.maximum(np.abs(x) - 1, np.abs(y) - 0.38)
    tall = np.maximum(np.abs(x) - 0.38, np.abs(y) - 1)
    return np.minimum(wide, tall), np.ones_like(x)


def _ring(x: Array, y: Array) -> tuple[Array, Array]:
    # A gap at one side, so that its turning shows.
    ring = np.abs(np.hypot(x, y) - 0.72) - 0.28
    return np.maximum(ring, 0.25 - np.maximum(np.abs(y), -x + 0.25)), np.ones_like(x)


def _stripes(x: Array) -> Array:
    """Return 1 and -1 in turn, three per radius, with soft edges."""
    stripes: Array = np.tanh(4 * np.sin(1.5 * np.pi * x))
    return stripes


# The look of a class: shape, pattern and hue; two classes share each.
CLASSES: dict[str, tuple[Shape, float, Motion]] = {
    "disc-orbits": (_disc, 0.0, _orbit),
    "disc-bounces": (_disc, 0.0, _bounce),
    "square-slides": (_square, 0.25, _slide),
    "square-spins": (_square, 0.25, _spin),
    "cross-pulses": (_cross, 0.5, _pulse),
    "cross-swings": (_cross, 0.5, _swing),
    "ring-zigzags": (_ring, 0.75, _zigzag),
    "ring-hops": (_ring, 0.75, _hop),
}


def _texture(rng: np.random.Generator, size: int) -> Array:
    """Return a pale random texture [size, size, 3] around grey, with detail at several scales."""
    image = np.full((size, size, 3), 0.45)
    for cells, weight in ((4, 0.15), (12, 0.1), (40, 0.05)):
        grid = rng.uniform(-1, 1, (cells + 1, cells + 1, 3))
        at = np.linspace(0, cells - 1e-6, size)
        low, part = at.astype(int), (at % 1)[:, None]
        rows = grid[low] * (1 - part[..., None]) + grid[low + 1] * part[..., None]
        columns = rows[:, low] * (1 - part)[None] + rows[:, low + 1] * part[None]
        image += weight * columns
    return image


def _bright_colour(hue: float) -> Array:
    """Return red, green and blue [3] of a hue in turns of the colour circle."""
    thirds = np.array([0, 1 / 3, 2 / 3])
    colour: Array = np.clip(0.5 + 1.5 * _triangle_wave(hue - thirds + 0.5), 0.05, 0.95)
    return colour


def render_video(
    rng: np.random.Generator, name: str, texture: Array, *, height: int, width: int, frames: int
) -> NDArray[np.uint8]:
    """Draw one video: uint8 [frames, height, width, 3].

    Args:
        rng: Decides what the class leaves open: start, tempo, size, hue, light, camera, noise.
        name: Of the class.
        texture: [size, size, 3] background in [0, 1], larger than the picture.
        height, width: In pixels.
        frames: At 24 per second.
    """
    shape, hue, motion = CLASSES[name]
    seconds = np.arange(frames) / FRAMES_PER_SECOND
    pose = motion(seconds + rng.uniform(0, 20), rng.uniform(0.8, 1.25))
    x, y, size, angle = np.broadcast_arrays(*pose)
    radius = rng.uniform(0.24, 0.3) * min(height, width)
    centre_x = width / 2 + x * (width / 2 - 1.2 * radius)
    centre_y = height / 2 + y * (height / 2 - 1.2 * radius)
    angle = angle + rng.uniform(-0.2, 0.2)
    colour = _bright_colour(hue + rng.normal(0, 0.03))

    # Strength and tint of the light; red, green and blue have a rhythm of their own.
    strength = 0.4 * _wave(rng, seconds, rates=(0.3, 0.5))
    tint = 0.15 * np.stack([_wave(rng, seconds, rates=(0.2, 0.4)) for _ in range(3)], axis=1)
    light = (1 + strength[:, None]) * (1 + tint)
    pan = _camera_path(rng, frames, room=(texture.shape[0] - height, texture.shape[1] - width))
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    video = np.empty((frames, height, width, 3), np.uint8)
    for frame, (top, left) in enumerate(pan):
        unit = radius * size[frame]
        from_x, from_y = (columns - centre_x[frame]) / unit, (rows - centre_y[frame]) / unit
        cos, sin = np.cos(angle[frame]), np.sin(angle[frame])
        distance, pattern = shape(cos * from_x + sin * from_y, cos * from_y - sin * from_x)
        cover = np.clip(0.5 - distance * unit, 0, 1)[..., None]
        paint = colour * (0.55 + 0.45 * pattern[..., None])
        picture = texture[top : top + height, left : left + width] * (1 - cover) + paint * cover
        lit = picture * light[frame] + rng.normal(0, 0.01, (height, width, 1))
        video[frame] = np.clip(255 * lit, 0, 255).round()
    return video


def _wave(rng: np.random.Generator, seconds: Array, *, rates: tuple[float, float]) -> Array:
    """Return a sine [T] of random phase and of a rate in turns per second."""
    wave: Array = np.sin(rng.uniform(0, 2 * np.pi) + 2 * np.pi * rng.uniform(*rates) * seconds)
    return wave


def _camera_path(rng: np.random.Generator, frames: int, room: tuple[int, int]) -> NDArray[np.int64]:
    """Return the top left corner [frames, 2] of a camera that drifts on a slow curve."""
    start, rate = rng.uniform(0, 2 * np.pi, 2), rng.uniform(0.15, 0.3, 2)
    seconds = np.arange(frames)[:, None] / FRAMES_PER_SECOND
    path: NDArray[np.int64] = (
        (0.5 + 0.5 * np.sin(start + 2 * np.pi * rate * seconds)) * room
    ).astype(np.int64)
    return path


def write_demo(folder: Path, demo: DemoSet) -> Iterator[tuple[int, int]]:
    """Write the demo set: FOLDER/CLASS/sceneNN.{mp4,webm} and FOLDER/videos.csv.

    Args:
        folder: Made if it is missing. Files of an earlier demo there are overwritten.
        demo: How much to write.

    Yields:
        Videos written so far and in all, after each video.

    Raises:
        InputError: The folder holds something else.
    """
    check_folder(folder, "the demo")
    _refuse_strangers(folder)
    rows = []
    scenes = demo.train_scenes + demo.test_scenes
    total = scenes * len(CLASSES)
    for scene in range(scenes):
        group = f"scene{scene:02d}"
        texture = _texture(np.random.default_rng((demo.seed, scene)), 288)
        for number, name in enumerate(CLASSES):
            rng = np.random.default_rng((demo.seed, scene, number))
            height, width, suffix, codec = FORMATS[int(rng.integers(len(FORMATS)))]
            frames = int(rng.integers(demo.frames * 3 // 4, demo.frames + 1))
            video = render_video(rng, name, texture, height=height, width=width, frames=frames)
            path = Path(name) / f"{group}.{suffix}"
            encode_video(folder / path, video, codec=codec, fps=FRAMES_PER_SECOND)
            split = "train" if scene < demo.train_scenes else "test"
            rows.append((path.as_posix(), name, group, split))
            yield len(rows), total
    _write_table(folder / "videos.csv", rows)


def _refuse_strangers(folder: Path) -> None:
    """Raise InputError unless the folder is missing, empty, or an earlier demo."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder for the demo videos")
    ours = {*CLASSES, "videos.csv", "few.csv"}
    strangers = (
        sorted(p.name for p in folder.iterdir() if p.name not in ours) if folder.exists() else []
    )
    if strangers:
        raise InputError(
            f"{folder} holds other files ({strangers[0]}); name a new or empty folder for the demo"
        )


def _write_table(path: Path, rows: list[tuple[str, str, str, str]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "label", "group", "split"))
    writer.writerows(rows)
    write(path, text.getvalue(), "the table")
