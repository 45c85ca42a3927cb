"""How fast this machine turns encoded video into augmented clips, measured."""

import os
import tempfile
import time
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

_HEIGHT, _WIDTH, _RATE, _FRAMES = 256, 340, 30, 300
_COPIES, _BATCH = 16, 4
_MAX_SECONDS = 4.0
_KINETICS_VIDEOS = 240_000


def check_loading(device: torch.device) -> tuple[Literal["ok"], str]:
    """Load 340x256 H.264 clips of ten seconds as pretraining does, for some seconds.

    Raises:
        FailureError, InputError: They cannot be loaded.
    """
    from fastdual.demo import encode_video
    from fastdual.loaders.index import build_index
    from fastdual.loaders.loader import ClipLoader
    from fastdual.loaders.plan import ClipSpec

    with tempfile.TemporaryDirectory(prefix="fastdual-doctor-") as name:
        folder = Path(name) / "videos"
        folder.mkdir()
        first = folder / "00.mp4"
        encode_video(first, _pictures(), codec="libx264", fps=_RATE)
        for number in range(1, _COPIES):
            os.link(first, folder / f"{number:02}.mp4")
        index = build_index(folder, Path(name) / "index.h5")
        with ClipLoader(index, ClipSpec(), batch_size=_BATCH, device=device) as loader:
            decoder = loader.decode_choice.backend
            next(iter(loader))  # workers start, the graph is built
            started, videos = time.perf_counter(), 0
            while time.perf_counter() - started < _MAX_SECONDS:
                next(iter(loader))
                videos += _BATCH
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            rate = videos / (time.perf_counter() - started)
    return "ok", describe(rate, decoder)


def describe(videos_per_second: float, decoder: str) -> str:
    """What a rate means for a run."""
    hours = _KINETICS_VIDEOS / videos_per_second / 3600
    return (
        f"{decoder} sustains {videos_per_second:.1f} videos/s (4 views of 16 frames each, from "
        f"{_WIDTH}x{_HEIGHT} H.264 of 10 s): {hours:.1f} hours for an epoch of Kinetics-400; "
        "fastdual pack --size 128x171 makes it faster"
    )


def _pictures() -> NDArray[np.uint8]:
    """A textured ground that pans, [T, H, W, 3]: costs about what a real clip costs to decode."""
    random = np.random.default_rng(0)
    shape = (_HEIGHT // 4 + 16, _WIDTH // 4 + 32, 3)
    coarse = random.normal(128, 40, (shape[0] // 8 + 1, shape[1] // 8 + 1, 3))
    ground = np.kron(coarse, np.ones((8, 8, 1)))[: shape[0], : shape[1]]
    ground = np.kron(ground + random.normal(0, 8, shape), np.ones((4, 4, 1)))
    ground = ground.clip(0, 255).astype(np.uint8)
    shifts = (60 * (1 + np.sin(np.arange(_FRAMES) / 25))).astype(int)
    return np.stack([ground[s // 2 :, s:][:_HEIGHT, :_WIDTH] for s in shifts])
