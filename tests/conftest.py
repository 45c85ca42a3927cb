"""What every test shares: where the real data lie, and the rule for tests that need a GPU."""

import os
from pathlib import Path

import hypothesis
import pytest

from tests.packages import missing

# The same examples on every run, so that a change is judged by what it changed. New ones with
# HYPOTHESIS_PROFILE=explore.
hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.register_profile("explore", derandomize=False)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

PROJECT = Path(__file__).resolve().parent.parent
SHARED = PROJECT.parent / "shared"
GOLDEN = Path(__file__).resolve().parent / "golden"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real videos beside the checkout; not ours to hand on, so a clone alone has none."""
    data = SHARED / "data"
    if not data.is_dir():
        pytest.skip("../shared/data is absent: real videos of other projects, not part of this one")
    return data


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the numbers recorded from the paper's research code."""
    return GOLDEN


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    for item in items:
        needed = [name for mark in item.iter_markers("needs") for name in mark.args]
        if names := missing(*needed):
            item.add_marker(pytest.mark.skip(reason=f"needs {names}"))
    if torch.cuda.is_available() or os.environ.get("FASTDUAL_REQUIRE_GPU") == "1":
        return
    skip = pytest.mark.skip(reason="no CUDA device (python -m bench.gpu_check runs these on one)")
    for item in items:
        if item.get_closest_marker("gpu"):  # not keywords: the checkout's folder may be named so
            item.add_marker(skip)
