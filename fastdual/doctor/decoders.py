"""Self-check of the decoders: each decodes one small VP9 video, and the pictures are compared."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastdual.demo.encode import encode_video
from fastdual.doctor.check import Check, Outcome, Status, run_check
from fastdual.loaders.index import build_index
from fastdual.loaders.loader import ClipLoader
from fastdual.loaders.plan import ClipSpec
from fastdual.loaders.views.augment import MEAN, STD

_FRAME_TOLERANCE = 2.0  # mean absolute difference between decoders, of 255
_CODING_TOLERANCE = 6.0  # the same against the pictures before they were encoded


def check_decoders(folder: Path, *, has_gpu: bool) -> list[Check]:
    """Decode a small video, written to `folder`, with every decoder, NVDEC only with a GPU."""
    pictures = _draw_pictures()
    (folder / "decoders").mkdir()
    encode_video(folder / "decoders" / "test.webm", pictures, codec="libvpx-vp9", fps=10)
    expected = _prepare(pictures[:8])
    truth = functools.cache(lambda: _decode(folder, "pyav", "cpu"))

    def pyav() -> Outcome:
        difference = _difference(truth(), expected)
        status: Status = "ok" if difference < _CODING_TOLERANCE else "wrong"
        return status, f"VP9, differs from what was encoded by {difference:.2f} of 255"

    def other(decoder: str, device: str) -> Outcome:
        try:
            reference = truth()
        except Exception:
            return "unavailable", "nothing to compare with, PyAV failed"
        difference = _difference(_decode(folder, decoder, device), reference)
        status: Status = "ok" if difference < _FRAME_TOLERANCE else "wrong"
        return status, f"VP9, differs from PyAV by {difference:.2f} of 255"

    checks = [
        run_check("decode pyav", pyav, required=True),
        run_check("decode dali-cpu", lambda: other("dali-cpu", "cpu")),
    ]
    if has_gpu:
        nvdec = run_check("decode nvdec", lambda: other("nvdec", "cuda:0"), required=True)
    else:
        nvdec = Check("decode nvdec", "unavailable", "no CUDA device")
    return [*checks, nvdec]


def _decode(folder: Path, decoder: str, device: str) -> Tensor:
    """Return the first 8 frames of the video as the loader gives them, [C, T, H, W] in 0..255."""
    index = build_index(folder / "decoders", folder / "decoders.h5", num_workers=1)
    spec = ClipSpec(mode="evaluate", frames_per_clip=8, frame_stride=1, clips_per_video=1)
    options: dict[str, Any] = {"decode": decoder, "device": device, "num_workers": 1}
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (MEAN, STD))
    with ClipLoader(index, spec, batch_size=1, shuffle=False, **options) as loader:
        return next(iter(loader)).clips[0, 0].float().cpu() * std + mean


def _difference(ours: Tensor, truth: Tensor) -> float:
    return (ours - truth).abs().mean().item()


def _draw_pictures() -> NDArray[np.uint8]:
    """Return 16 pictures of 144x192 in which a soft bright bar moves: [T, H, W, 3]."""
    times, rows, columns = np.ogrid[:16, :144, :192]
    bar = 200 * np.exp(-(((columns - 30 - 8 * times) / 20.0) ** 2))
    colours = np.broadcast_arrays(bar + rows / 4, rows, 255 - columns)
    return np.stack(colours, axis=-1).clip(0, 255).astype(np.uint8)


def _prepare(pictures: NDArray[np.uint8]) -> Tensor:
    """Return what `_decode` should give, but for the losses of coding: resized, centre crop."""
    frames = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
    resized = torch.nn.functional.interpolate(frames, (128, 171), mode="bilinear", antialias=True)
    return resized[:, :, 8:120, 30:142].transpose(0, 1)
