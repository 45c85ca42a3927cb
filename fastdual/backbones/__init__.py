"""Video backbones by name: clips [N, 3, T, H, W] -> feature maps [N, F, t, h, w].

Every backbone has an attribute `feature_dim` = F. Besides the names of `backbone_names()`, any
nn.Module of the user's is taken as "package.module:factory" (see `fastdual.backbones.custom`).
"""

from collections.abc import Callable

from torch import nn

from fastdual.backbones import residual
from fastdual.backbones.custom import load_custom_backbone
from fastdual.loaders.errors import InputError

_BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "tiny": residual.tiny,
    "r2plus1d": residual.r2plus1d,
    "r3d": residual.r3d,
}


def backbone_names() -> tuple[str, ...]:
    """The built-in names, smallest network first."""
    return tuple(_BUILDERS)


def create_backbone(name: str, *, clip_shape: tuple[int, int, int] = (16, 112, 112)) -> nn.Module:
    """A freshly initialised backbone with `.feature_dim`.

    Args:
        name: one of `backbone_names()`, or "package.module:factory" of your own.
        clip_shape: T, H, W of the clips to come; only a backbone of your own is tried on it.

    Raises:
        InputError: unknown name, or a backbone of your own that cannot be used.
    """
    if ":" in name:
        return load_custom_backbone(name, clip_shape=clip_shape)
    if name not in _BUILDERS:
        raise InputError(
            f"unknown backbone {name!r}: choose one of {', '.join(_BUILDERS)}, "
            "or give your own as package.module:factory"
        )
    return _BUILDERS[name]()
