"""What tests of the kernels share."""

import io
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
import torch

from tests.numerics import poisoned_empty


@pytest.fixture
def nan_memory() -> Iterator[None]:
    """New memory holds NaN: an unwritten output cannot pass."""
    with poisoned_empty():
        yield


def _saved(function: Callable[..., Any], *arguments: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(function(*arguments), buffer)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def interpreted() -> Iterator[Callable[..., Any]]:
    """Call a function in a child process, where the kernels are interpreted.

    Triton decides at import whether it interprets. The child starts with the first call and works
    off what the tests ask for, and no more. Where it does so here already, none is needed.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        yield lambda function, *arguments: function(*arguments)
        return
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:

        def call(function: Callable[..., Any], *arguments: Any) -> Any:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("TRITON_INTERPRET", "1")
                saved = pool.submit(_saved, function, *arguments)
            return torch.load(io.BytesIO(saved.result(timeout=500)))

        yield call
