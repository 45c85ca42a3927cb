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
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from fastdual._version import __version__
from fastdual.config.sections import RunConfig
from fastdual.doctor.check import Check, Status, run_check
from fastdual.doctor.losses import check_contrastive, check_conv3d, check_shuffle_rank
from fastdual.loaders.pool.cpus import available_cpus
from fastdual.training.compiler import find_compiler
from fastdual.training.execution import choose_execution

_PACKAGES = {
    "torch": ("torch",),
    "triton": ("triton",),
    "DALI": ("nvidia-dali-cuda130", "nvidia-dali-cuda120"),
    "av": ("av",),
    "h5py": ("h5py",),
    "numpy": ("numpy",),
}


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
        """Return plain values, for JSON."""
        return {**asdict(self), "ok": not self.failures}

    def to_text(self) -> str:
        """Return lines for people."""
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
    """Try everything; takes some seconds and raises nothing."""
    has_gpu = torch.cuda.is_available()
    checks = [_check_python(), check_video_packages(), _check_cuda()]
    checks.append(check_dali(required=has_gpu))
    checks.append(check_compiler(required=has_gpu))
    checks += [
        run_check("loss contrastive", check_contrastive),
        run_check("loss shuffle-rank", check_shuffle_rank),
    ]
    if has_gpu:
        checks.append(run_check("bf16 conv3d", check_conv3d, required=True))
    checks.append(_check_nvdec_library(required=has_gpu))
    if checks[1].status == "ok":
        checks += _check_videos(has_gpu)
    return Diagnosis(_versions(), _machine(), checks, _used())


def check_compiler(*, required: bool) -> Check:
    """Look for the C compiler of torch.compile and Triton."""
    found, name = find_compiler(torch.device("cuda" if required else "cpu"))
    if found is not None:
        return Check("C compiler", "ok", found)
    why = f"no {name} on PATH: no torch.compile" + (", no fused losses" if required else "")
    remedy = "apt install build-essential, or a cluster's module"
    return Check("C compiler", "unavailable", f"{why}; {remedy}", required=required)


def _check_videos(has_gpu: bool) -> list[Check]:
    # Not before it is known that their packages can be imported.
    from fastdual.doctor.decoders import check_decoders
    from fastdual.doctor.rate import rate_checks

    device = torch.device("cuda", 0) if has_gpu else torch.device("cpu")
    with tempfile.TemporaryDirectory(prefix="fastdual-doctor-") as name:
        folder = Path(name)
        checks = check_decoders(folder, has_gpu=has_gpu)
        return checks + [run_check(*rate) for rate in rate_checks(folder, device).items()]


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
    cores = available_cpus()
    machine = {"CPU": f"{cores} cores, {memory_gib:.0f} GiB of memory, {platform.machine()}"}
    machine["driver"] = _driver_version() or "no NVIDIA driver"
    for number in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(number)
        machine[f"cuda:{number}"] = (
            f"{gpu.name}, capability {gpu.major}.{gpu.minor}, {gpu.total_memory / 2**30:.0f} GiB"
        )
    return machine


def _driver_version() -> str | None:
    """Return the driver's version by NVIDIA's management library; None where there is none."""
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


def check_video_packages() -> Check:
    """Check that the packages of the extra `video` can be imported."""
    broken = []
    for module in ("av", "h5py"):
        try:
            importlib.import_module(module)
        except (ImportError, OSError) as error:
            broken.append(f"{module} ({str(error).splitlines()[0]})")
    if broken:
        remedy = 'run pip install ".[video]" in fastdual\'s checkout'
        detail = f"{', '.join(broken)}: only the losses work; {remedy}"
        return Check("video packages", "unavailable", detail, required=True)
    return Check("video packages", "ok", "av and h5py can be imported", required=True)


def check_dali(*, required: bool) -> Check:
    """Check that DALI, of the extra `gpu`, can be imported; a CPU does without it."""
    try:
        importlib.import_module("nvidia.dali")
    except (ImportError, OSError) as error:
        remedy = 'run pip install ".[gpu]" in fastdual\'s checkout, ".[gpu-cu12]" for CUDA 12'
        needed = "loading to a GPU needs it" if required else "a GPU would need it"
        detail = f"{str(error).splitlines()[0]}: {needed}; {remedy}"
        return Check("DALI", "unavailable", detail, required=required)
    return Check("DALI", "ok", "can be imported", required=required)


def _check_cuda() -> Check:
    if torch.cuda.is_available():
        return Check("CUDA", "ok", f"{torch.cuda.device_count()} devices")
    if torch.version.cuda is None:
        reason = f"torch {torch.__version__} is built without CUDA"
    elif _driver_version() is None:
        reason = "there is no NVIDIA driver"
    else:
        reason = (
            f"torch wants CUDA {torch.version.cuda}, which driver {_driver_version()} does not "
            "offer: update the driver (CUDA 13 needs 580 or newer), or install torch's build for "
            'CUDA 12 and ".[gpu-cu12]" in fastdual\'s checkout'
        )
    return Check("CUDA", "unavailable", reason)


def _check_nvdec_library(*, required: bool) -> Check:
    try:
        from fastdual.loaders.batch.nvdec import Nvdec, why_no_nvdec
    except ImportError as error:
        return Check("NVDEC library", "unavailable", f"cannot be asked: {error}", required=required)
    missing = why_no_nvdec()
    if missing is not None:
        return Check("NVDEC library", "unavailable", missing, required=required)
    detail = "libnvcuvid.so.1 can be loaded"
    if required:
        detail = f"{Nvdec(torch.device('cuda', 0)).num_engines()} engines decode H.264"
    return Check("NVDEC library", "ok", detail, required=required)


def _used() -> dict[str, str]:
    """Return the choices that `auto` comes to."""
    execution = choose_execution(RunConfig())
    used = {"compute": execution.describe()}
    try:
        from fastdual.loaders.batch.decoder import choose_decoder

        choice = choose_decoder("auto", str(execution.device))
        used["decode"] = f"{choice.decoder}: {choice.reason}"
    except ImportError as error:
        used["decode"] = f"nothing: {error}"
    used["losses"] = (
        "Triton kernels" if execution.is_cuda else "the same ops with torch operations, no GPU"
    )
    return used
