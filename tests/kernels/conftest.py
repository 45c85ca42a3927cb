"""What tests of the kernels share."""

from collections.abc import Iterator

import pytest

from tests.numerics import poisoned_empty


@pytest.fixture
def nan_memory() -> Iterator[None]:
    """New memory holds NaN: an unwritten output cannot pass."""
    with poisoned_empty():
        yield
