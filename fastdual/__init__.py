"""Self-supervised video pretraining at hardware speed (the method of arXiv:2107.01194)."""

from typing import Any

from fastdual._version import __version__ as __version__


def __getattr__(name: str) -> Any:
    """Import `fastdual.load` when it is used: `import fastdual.losses` needs torch alone."""
    if name != "load":
        raise AttributeError(f"module 'fastdual' has no attribute {name!r}")
    from fastdual.weights.load import load

    return load
