"""Self-supervised video pretraining at hardware speed (the method of arXiv:2107.01194)."""

import os
import warnings
from typing import TYPE_CHECKING, Any

from fastdual._version import __version__ as __version__

if TYPE_CHECKING:  # shows type checkers what `__getattr__` gives
    from fastdual.weights.load import load as load


def __getattr__(name: str) -> Any:
    """Import `fastdual.load` when it is used: `import fastdual.losses` needs only torch."""
    if name != "load":
        raise AttributeError(f"module 'fastdual' has no attribute {name!r}")
    from fastdual.weights.load import load

    return load


def _warn_of_namesake() -> None:
    """Warn where a distribution called `fastdual` is installed beside ours, `fastdual-video`.

    It is PyPI's, another project, or ours under its old name; either has files of our names.
    """
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    try:
        names = os.listdir(folder)
    except OSError:  # imported from an archive
        return
    if any(n.startswith("fastdual-") and n.endswith((".dist-info", ".egg-info")) for n in names):
        warnings.warn(
            f"another distribution called fastdual is installed in {folder}, with files of the "
            "same names as ours: run pip uninstall fastdual, then install ours again from its "
            "checkout",
            stacklevel=3,
        )


_warn_of_namesake()
