"""Self-supervised video pretraining at hardware speed (the method of arXiv:2107.01194)."""

import importlib
import os
import warnings
from typing import TYPE_CHECKING, Any

from fastdual._version import __version__ as __version__

if TYPE_CHECKING:  # shows type checkers what `__getattr__` gives
    from fastdual.evaluate.features import FeatureSet as FeatureSet
    from fastdual.loaders import ClipBatch as ClipBatch
    from fastdual.loaders import ClipDataset as ClipDataset
    from fastdual.loaders import ClipLoader as ClipLoader
    from fastdual.loaders import ClipSpec as ClipSpec
    from fastdual.loaders import open_index as open_index
    from fastdual.weights.load import load as load

_MODULES = dict.fromkeys(
    ("ClipBatch", "ClipDataset", "ClipLoader", "ClipSpec", "open_index"), "fastdual.loaders"
) | {"FeatureSet": "fastdual.evaluate.features", "load": "fastdual.weights.load"}


_OTHERS = ("functional", "losses")  # modules of the face

if not os.path.isdir(os.path.join(__path__[0], "kernels")):
    # In a checkout that is not installed, fastdual.kernels and fastdual.loaders lie beside this.
    __path__.append(os.path.dirname(__path__[0]))


def __getattr__(name: str) -> Any:
    """Import a name of the face when it is used: `import fastdual.losses` needs only torch."""
    if name not in _MODULES:
        raise AttributeError(f"module 'fastdual' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_MODULES[name]), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("fastdual"):
            raise
        raise ModuleNotFoundError(
            f"fastdual.{name} needs the module {error.name!r}, which is not installed: "
            'run pip install ".[video]" in fastdual\'s checkout',
            name=error.name,
        ) from error


def __dir__() -> list[str]:
    return [*(name for name in globals() if name.startswith("__")), *_MODULES, *_OTHERS]


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
