"""The C compiler that torch.compile and Triton start, looked for before the work begins."""

import os
import shutil

import torch

from fastdual.errors import InputError


def find_compiler(device: torch.device) -> tuple[str | None, str]:
    """Return the path of the compiler that kernels for a device are built with, and its name.

    Triton builds its launcher of a kernel in C; for a CPU torch.compile writes C++.
    """
    if device.type == "cuda":
        variable, names = "CC", ["clang", "gcc", "cc"]  # as Triton looks for them
    else:
        variable, names = "CXX", ["g++"]  # as torch's inductor does
    wanted = os.environ.get(variable)
    names = [wanted.split()[0]] if wanted and wanted.strip() else names
    found = next((path for name in names if (path := shutil.which(name))), None)
    return found, " or ".join(names)


def require_compiler(device: torch.device, *, setting: str, remedy: str) -> None:
    """Raise an InputError unless there is a compiler for what is about to be built.

    Args:
        device: Where it will run.
        setting: What asks for it: "run.compile = 'on'".
        remedy: How to do without: "set run.compile=off".
    """
    found, name = find_compiler(device)
    if found is None:
        raise InputError(
            f"{setting}: kernels for {device.type} are built with a C compiler, and there is no "
            f"{name} on PATH; install one (apt install build-essential, or a cluster's module), or "
            f"{remedy}"
        )
