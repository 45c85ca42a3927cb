"""Self-supervised video pretraining at hardware speed (the method of arXiv:2107.01194)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastdual._version import __version__ as __version__

if TYPE_CHECKING:
    from pathlib import Path

    from fastdual.model.encoder import VideoEncoder


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
    from fastdual.weights import load as weights

    return weights.load(path, device=device, backbone=backbone)
