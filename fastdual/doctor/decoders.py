"""Self-check of the decoders: each decodes small videos itself, and the pictures are compared."""

from collections.abc import Callable
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
# The size of Kinetics, which is no multiple of 16. The H.264 has B-frames, as most files have.
_HEIGHT, _WIDTH = 256, 340
_FILES = {"H.264 with B-frames": ("libx264", "mp4"), "VP9": ("libvpx-vp9", "webm")}


def check_decoders(folder: Path, *, has_gpu: bool) -> list[Check]:
    """Decode small videos, written to `folder`, with every decoder, NVDEC only with a GPU.

    DALI on a CPU knows VP9 alone of the two. Whoever is checked decodes: PyAV does not help.
    """
    pictures = _draw_pictures()
    for codec, suffix in _FILES.values():
        (folder / suffix).mkdir()
        encode_video(folder / suffix / f"test.{suffix}", pictures, codec=codec, fps=10)
    expected = _prepare(pictures[:8])
    by_pyav: dict[str, Tensor] = {}

    def pyav() -> Outcome:
        def compare(name: str, decoded: Tensor) -> float:
            by_pyav[name] = decoded
            return _difference(decoded, expected)

        return _outcome(folder, _FILES, "pyav", "cpu", compare, _CODING_TOLERANCE)

    def other(decoder: str, device: str, files: dict[str, tuple[str, str]]) -> Outcome:
        if not by_pyav.keys() >= files.keys():
            return "unavailable", "nothing to compare with, PyAV failed"

        def compare(name: str, decoded: Tensor) -> float:
            return _difference(decoded, by_pyav[name])

        return _outcome(folder, files, decoder, device, compare, _FRAME_TOLERANCE)

    vp9 = {"VP9": _FILES["VP9"]}
    checks = [
        run_check("decode pyav", pyav, required=True),
        run_check("decode dali-cpu", lambda: other("dali-cpu", "cpu", vp9)),
    ]
    if has_gpu:
        nvdec = run_check("decode nvdec", lambda: other("nvdec", "cuda:0", _FILES), required=True)
    else:
        nvdec = Check("decode nvdec", "unavailable", "no CUDA device")
    return [*checks, nvdec]


def _outcome(
    folder: Path,
    files: dict[str, tuple[str, str]],
    decoder: str,
    device: str,
    compare: Callable[[str, Tensor], float],
    tolerance: float,
) -> Outcome:
    """Decode each file, say who did it, and compare."""
    status: Status = "ok"
    found = []
    for name, (_, suffix) in files.items():
        decoded, decoders = _decode(folder, suffix, decoder, device)
        difference = compare(name, decoded)
        if decoders != (decoder,) or not difference < tolerance:
            status = "wrong"
        found.append(f"{name} decoded by {decoders[0]}, off by {difference:.2f}")
    against = "what was encoded" if decoder == "pyav" else "PyAV"
    return status, f"{_WIDTH}x{_HEIGHT}: {'; '.join(found)} of 255 from {against}"


def _decode(folder: Path, suffix: str, decoder: str, device: str) -> tuple[Tensor, tuple[str, ...]]:
    """Return the first 8 frames as the loader gives them, [C, T, H, W] in 0..255, and by whom."""
    index = build_index(folder / suffix, folder / f"{suffix}.h5", num_workers=1)
    spec = ClipSpec(mode="evaluate", frames_per_clip=8, frame_stride=1, clips_per_video=1)
    options: dict[str, Any] = {"decode": decoder, "device": device, "num_workers": 1}
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (MEAN, STD))
    with ClipLoader(index, spec, batch_size=1, shuffle=False, **options) as loader:
        batch = next(iter(loader))
        return batch.clips[0, 0].float().cpu() * std + mean, batch.decoders


def _difference(ours: Tensor, truth: Tensor) -> float:
    return (ours - truth).abs().mean().item()


def _draw_pictures() -> NDArray[np.uint8]:
    """Return 16 pictures in which a soft bright bar moves: [T, H, W, 3]."""
    times, rows, columns = np.ogrid[:16, :_HEIGHT, :_WIDTH]
    bar = 200 * np.exp(-(((columns - 53 - 14 * times) / 35.0) ** 2))
    colours = np.broadcast_arrays(bar + rows / 7, rows / 2, 255 - columns / 2)
    return np.stack(colours, axis=-1).clip(0, 255).astype(np.uint8)


def _prepare(pictures: NDArray[np.uint8]) -> Tensor:
    """Return what `_decode` should give, but for the losses of coding: resized, centre crop."""
    frames = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
    resized = torch.nn.functional.interpolate(frames, (128, 171), mode="bilinear", antialias=True)
    return resized[:, :, 8:120, 30:142].transpose(0, 1)
