"""Whatever matplotlib warns of in the tests of pictures is a fault."""

import warnings

import pytest


@pytest.fixture(autouse=True)
def no_warning() -> object:
    """matplotlib warns of what looks wrong: clipped layouts, missing glyphs, ignored colours."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
