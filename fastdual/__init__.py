"""Self-supervised video pretraining at hardware speed (the method of arXiv:2107.01194)."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from fastdual.encoder import VideoEncoder

__version__ = "0.1.0"


def load(path: Path | str, *, device: str = "cpu", backbone: str | None = None) -> VideoEncoder:
    """A ready network with its preprocessing, from a run folder, a checkpoint or an exported file.

    Args:
        path: what `fastdual pretrain` or `fastdual export` wrote.
        device: where the network goes.
        backbone: "package.module:factory", where the network was trained on one of your own: no
            file can have code imported that you do not name.

    Raises:
        InputError: nothing there, or damaged; never random weights.
    """
    # `import fastdual.losses` needs torch alone; this needs the extra `video`.
    from fastdual import weights

    return weights.load(path, device=device, backbone=backbone)


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
