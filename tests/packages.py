"""Packages that a machine may lack: what needs them is skipped by name, unless CI forbids it.

Tests mark what they need, `pytest.mark.needs("av", "nvidia.dali")`, and take PyAV from here.
"""

import importlib.util
import os

import pytest

try:
    import av as av
except ModuleNotFoundError:
    av = None

_NAMES = {"av": "PyAV", "nvidia.dali": "DALI"}


def missing(*packages: str) -> str:
    """Return the names of the packages that are not installed, "" if all are.

    With FASTDUAL_REQUIRE_PACKAGES=1 none counts as missing, so that a test without them fails.
    """
    if os.environ.get("FASTDUAL_REQUIRE_PACKAGES") == "1":
        return ""
    return " and ".join(_NAMES.get(name, name) for name in packages if not _is_installed(name))


def need(*packages: str) -> None:
    """Skip the test that is being set up or run if a package is missing."""
    if names := missing(*packages):
        pytest.skip(f"needs {names}")


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of the package above it
        return False
