"""How fast this machine turns encoded video into augmented clips, measured."""

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fastdual.demo.encode import encode_video
from fastdual.doctor.check import Outcome, Status
from fastdual.loaders.decode.video import decode_all, open_video
from fastdual.loaders.index import VideoIndex, build_index
from fastdual.loaders.loader import ClipLoader
from fastdual.loaders.plan import ClipSpec

_HEIGHT, _WIDTH, _RATE, _FRAMES = 256, 340, 30, 300
_COPIES, _BATCH = 16, 4
_DECODE_SECONDS, _LOAD_SECONDS = 1.0, 4.0
_KINETICS_VIDEOS = 240_000


def rate_checks(folder: Path, device: torch.device) -> dict[str, Callable[[], Outcome]]:
    """Return the measurements by name; the first that is called writes the videos to `folder`.

    Calling one raises FailureError or InputError where its videos cannot be loaded.
    """
    clips = functools.cache(lambda: _write_clips(folder))
    return {
        "decode rate": lambda: _check_decoding(clips()),
        "loading": lambda: _check_loading(clips(), device),
    }


def _write_clips(folder: Path) -> VideoIndex:
    """Write the same H.264 clip of ten seconds under several names."""
    videos = folder / "rate"
    videos.mkdir()
    first = videos / "00.mp4"
    encode_video(first, _pictures(), codec="libx264", fps=_RATE)
    for number in range(1, _COPIES):
        os.link(first, videos / f"{number:02}.mp4")
    return build_index(videos, folder / "rate.h5")


def _check_decoding(index: VideoIndex) -> Outcome:
    """Decode whole clips with PyAV on one thread, pictures left as they come out."""
    started, frames = time.thread_time(), 0
    while time.thread_time() - started < _DECODE_SECONDS:
        with open_video(index.source(0)) as video:
            frames += sum(1 for _ in decode_all(video))
    rate = frames / (time.thread_time() - started)
    return "ok", f"one core decodes {rate:,.0f} frames/s of {_WIDTH}x{_HEIGHT} H.264 with PyAV"


def _check_loading(index: VideoIndex, device: torch.device) -> Outcome:
    """Load the clips as pretraining does, for some seconds."""
    with ClipLoader(index, ClipSpec(), batch_size=_BATCH, device=device) as loader:
        next(iter(loader))  # workers start, the graph is built
        started, videos = time.perf_counter(), 0
        while time.perf_counter() - started < _LOAD_SECONDS:
            next(iter(loader))
            videos += _BATCH
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        rate = videos / (time.perf_counter() - started)
    chosen, by = loader.decode_choice.decoder, loader.decoded_by
    status: Status = "ok" if by.decoders.keys() == {chosen} else "wrong"
    return status, describe(rate, chosen if status == "ok" else f"({chosen} was chosen: {by})")


def describe(videos_per_second: float, decoder: str) -> str:
    """Say what a rate means for a run."""
    hours = _KINETICS_VIDEOS / videos_per_second / 3600
    return (
        f"{decoder} sustains {videos_per_second:.1f} videos/s (4 views of 16 frames each, from "
        f"{_WIDTH}x{_HEIGHT} H.264 of 10 s): {hours:.1f} hours for an epoch of Kinetics-400; "
        "fastdual pack --size 128x171 makes it faster"
    )


def _pictures() -> NDArray[np.uint8]:
    """Draw a textured ground that pans, [T, H, W, 3]: it decodes about as fast as a real clip."""
    random = np.random.default_rng(0)
    shape = (_HEIGHT // 4 + 16, _WIDTH // 4 + 32, 3)
    coarse = random.normal(128, 40, (shape[0] // 8 + 1, shape[1] // 8 + 1, 3))
    ground = np.kron(coarse, np.ones((8, 8, 1)))[: shape[0], : shape[1]]
    ground = np.kron(ground + random.normal(0, 8, shape), np.ones((4, 4, 1)))
    ground = ground.clip(0, 255).astype(np.uint8)
    shifts = (60 * (1 + np.sin(np.arange(_FRAMES) / 25))).astype(int)
    return np.stack([ground[s // 2 :, s:][:_HEIGHT, :_WIDTH] for s in shifts])
