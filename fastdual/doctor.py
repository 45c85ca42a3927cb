"""What this machine has, whether it works, and what fastdual will therefore use.

Nothing is taken on trust: the fused losses are compared with their reference, gradients included,
and every decoder decodes a small video.
"""

import ctypes
import importlib
import importlib.metadata
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from fastdual import __version__
from fastdual.doctor_kernels import check_contrastive, check_conv3d, check_shuffle_rank
from fastdual.doctor_rate import rate_checks

Status = Literal["ok", "wrong", "unavailable"]

_PACKAGES = {
    "torch": ("torch",),
    "triton": ("triton",),
    "DALI": ("nvidia-dali-cuda130", "nvidia-dali-cuda120"),
    "av": ("av",),
    "h5py": ("h5py",),
    "numpy": ("numpy",),
}
_FRAME_TOLERANCE = 2.0  # mean absolute difference between decoders, of 255
_CODING_TOLERANCE = 6.0  # the same against the pictures before they were encoded
_MEAN, _STD = (
    torch.tensor(values).view(3, 1, 1, 1) * 255
    for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
)


@dataclass(frozen=True)
class Check:
    """One thing that was tried.

    `unavailable` is a fault only where the thing is required; `wrong` always is one.
    """

    name: str
    status: Status
    detail: str
    required: bool = False

    @property
    def failed(self) -> bool:
        """Whether fastdual cannot be trusted to work here."""
        return self.status == "wrong" or (self.required and self.status != "ok")


@dataclass(frozen=True)
class Diagnosis:
    """Versions, hardware, checks, and what will be used and why."""

    versions: dict[str, str]
    machine: dict[str, str]
    checks: list[Check]
    used: dict[str, str]

    @property
    def failures(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if check.failed]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "ok": not self.failures}

    def to_text(self) -> str:
        """Lines for people."""
        lines = []
        for title, values in (("versions", self.versions), ("machine", self.machine)):
            lines += [title, *(f"  {name:<12} {value}" for name, value in values.items())]
        lines.append("checks")
        for check in self.checks:
            mark = "FAILED " if check.failed else ""
            lines.append(f"  {check.name:<20} {mark}{check.status}: {check.detail}")
        lines += ["used", *(f"  {name:<12} {value}" for name, value in self.used.items())]
        return "\n".join(lines)


def diagnose() -> Diagnosis:
    """Look at everything; takes some seconds and raises nothing."""
    has_gpu = torch.cuda.is_available()
    checks = [_check_python(), _check_video_packages(), _check_cuda()]
    checks += [
        _guarded("loss contrastive", check_contrastive),
        _guarded("loss shuffle-rank", check_shuffle_rank),
    ]
    if has_gpu:
        checks.append(_guarded("bf16 conv3d", check_conv3d, required=True))
    checks.append(_check_nvdec_library(required=has_gpu))
    if checks[1].status == "ok":
        checks += _check_decoders(has_gpu)
        device = torch.device("cuda", 0) if has_gpu else torch.device("cpu")
        with tempfile.TemporaryDirectory(prefix="fastdual-doctor-") as folder:
            checks += [_guarded(*rate) for rate in rate_checks(Path(folder), device).items()]
    return Diagnosis(_versions(), _machine(), checks, _used())


def _versions() -> dict[str, str]:
    versions = {"fastdual": __version__, "python": platform.python_version()}
    for name, packages in _PACKAGES.items():
        versions[name] = _version_of(packages)
    if torch.version.cuda is not None:
        versions["CUDA"] = torch.version.cuda
        versions["cuDNN"] = _cudnn_version()
    return versions


def _version_of(packages: tuple[str, ...]) -> str:
    for package in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(package)
    return "not installed"


def _cudnn_version() -> str:
    number = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    if number is None:
        return "not loadable"
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def _machine() -> dict[str, str]:
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    machine = {"CPU": f"{cores} cores, {memory_gib:.0f} GiB of memory, {platform.machine()}"}
    machine["driver"] = _driver_version() or "no NVIDIA driver"
    for number in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(number)
        machine[f"cuda:{number}"] = (
            f"{gpu.name}, capability {gpu.major}.{gpu.minor}, {gpu.total_memory / 2**30:.0f} GiB"
        )
    return machine


def _driver_version() -> str | None:
    """The NVIDIA driver's version by its management library; None where there is none."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    text = ctypes.create_string_buffer(96)
    if library.nvmlInit_v2() != 0 or library.nvmlSystemGetDriverVersion(text, 96) != 0:
        return None
    return text.value.decode()


def _check_python() -> Check:
    status: Status = "ok" if sys.version_info >= (3, 11) else "wrong"
    detail = f"{platform.python_version()}, 3.11 or newer is needed"
    return Check("python", status, detail, required=True)


def _check_video_packages() -> Check:
    broken = []
    for module in ("av", "h5py", "nvidia.dali"):
        try:
            importlib.import_module(module)
        except (ImportError, OSError) as error:
            broken.append(f"{module} ({str(error).splitlines()[0]})")
    if broken:
        remedy = 'run pip install ".[video]" in fastdual\'s checkout'
        detail = f"{', '.join(broken)}: only the losses work; {remedy}"
        return Check("video packages", "unavailable", detail, required=True)
    return Check("video packages", "ok", "av, h5py and DALI can be imported", required=True)


def _check_cuda() -> Check:
    if torch.cuda.is_available():
        return Check("CUDA", "ok", f"{torch.cuda.device_count()} devices")
    if torch.version.cuda is None:
        reason = f"torch {torch.__version__} is built without CUDA"
    elif _driver_version() is None:
        reason = "there is no NVIDIA driver"
    else:
        reason = f"torch wants CUDA {torch.version.cuda}, which the driver does not offer"
    return Check("CUDA", "unavailable", reason)


def _check_nvdec_library(*, required: bool) -> Check:
    try:
        ctypes.CDLL("libnvcuvid.so.1")
    except OSError:
        detail = "libnvcuvid.so.1 is not found"
        if required:
            detail += "; in a container, set NVIDIA_DRIVER_CAPABILITIES=compute,utility,video"
        return Check("NVDEC library", "unavailable", detail, required=required)
    return Check("NVDEC library", "ok", "libnvcuvid.so.1 can be loaded", required=required)


def _guarded(
    name: str, check: Callable[[], tuple[Status, str]], *, required: bool = False
) -> Check:
    """Run a check that may itself break, which is an answer too."""
    try:
        return Check(name, *check(), required=required)
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        return Check(name, "wrong", f"{type(error).__name__}: {reason}", required=required)


def _check_decoders(has_gpu: bool) -> list[Check]:
    """Decode one small VP9 video with every decoder and compare the pictures."""
    with tempfile.TemporaryDirectory(prefix="fastdual-doctor-") as folder:
        truth: list[torch.Tensor] = []

        def pyav() -> tuple[Status, str]:
            truth.append(_decode(Path(folder), "pyav", "cpu"))
            difference = (truth[0] - _expected_clip()).abs().mean().item()
            status: Status = "ok" if difference < _CODING_TOLERANCE else "wrong"
            return status, f"VP9, differs from what was encoded by {difference:.2f} of 255"

        def other(backend: str, device: str) -> tuple[Status, str]:
            if not truth:
                return "unavailable", "nothing to compare with, PyAV failed"
            difference = (_decode(Path(folder), backend, device) - truth[0]).abs().mean().item()
            status: Status = "ok" if difference < _FRAME_TOLERANCE else "wrong"
            return status, f"VP9, differs from PyAV by {difference:.2f} of 255"

        checks = [
            _guarded("decode pyav", pyav, required=True),
            _guarded("decode dali-cpu", lambda: other("dali-cpu", "cpu")),
        ]
        if has_gpu:
            checks.append(_guarded("decode nvdec", lambda: other("nvdec", "cuda:0"), required=True))
        else:
            checks.append(Check("decode nvdec", "unavailable", "no CUDA device"))
    return checks


def _decode(folder: Path, backend: str, device: str) -> torch.Tensor:
    """The first 8 frames of the test video as the loader gives them: [C, T, H, W] in 0..255."""
    from fastdual.demo import encode_video
    from fastdual.loaders.index import build_index
    from fastdual.loaders.loader import ClipLoader
    from fastdual.loaders.plan import ClipSpec

    videos, index_file = folder / "videos", folder / "index.h5"
    if not videos.exists():
        videos.mkdir()
        encode_video(videos / "test.webm", _test_pictures(), codec="libvpx-vp9", fps=10)
        build_index(videos, index_file, num_workers=1)
    index = build_index(videos, index_file, num_workers=1)
    spec = ClipSpec(mode="evaluate", frames_per_clip=8, frame_stride=1, clips_per_video=1)
    options: dict[str, Any] = {"decode": backend, "device": device, "num_workers": 1}
    with ClipLoader(index, spec, batch_size=1, shuffle=False, **options) as loader:
        return next(iter(loader)).clips[0, 0].float().cpu() * _STD + _MEAN


def _test_pictures() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """16 pictures of 144x192 in which a soft bright bar moves: [T, H, W, 3]."""
    times, rows, columns = np.ogrid[:16, :144, :192]
    bar = 200 * np.exp(-(((columns - 30 - 8 * times) / 20.0) ** 2))
    colours = np.broadcast_arrays(bar + rows / 4, rows, 255 - columns)
    return np.stack(colours, axis=-1).clip(0, 255).astype(np.uint8)


def _expected_clip() -> torch.Tensor:
    """What `_decode` should give, but for the losses of coding: resized, centre crop."""
    pictures = torch.from_numpy(_test_pictures()[:8]).permute(0, 3, 1, 2).float()
    resized = torch.nn.functional.interpolate(pictures, (128, 171), mode="bilinear", antialias=True)
    return resized[:, :, 8:120, 30:142].transpose(0, 1)


def _used() -> dict[str, str]:
    """The choices that `auto` comes to."""
    from fastdual.config import RunConfig
    from fastdual.execution import choose_execution

    execution = choose_execution(RunConfig())
    used = {"compute": execution.describe()}
    try:
        from fastdual.loaders.decode import choose_backend

        choice = choose_backend("auto", str(execution.device))
        used["decode"] = f"{choice.backend}: {choice.reason}"
    except ImportError as error:
        used["decode"] = f"nothing: {error}"
    used["losses"] = (
        "Triton kernels" if execution.is_cuda else "the same ops with torch operations, no GPU"
    )
    return used
