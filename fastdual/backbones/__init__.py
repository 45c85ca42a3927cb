"""Video backbones by name: clips [N, 3, T, H, W] -> feature maps [N, F, t, h, w].

Every backbone has an attribute `feature_dim` = F. Besides the names of `backbone_names()`, any
nn.Module of the user is taken as "package.module:factory" (see `fastdual.backbones.custom`).
"""

from collections.abc import Callable

from torch import nn

from fastdual.backbones import c3d, residual, resnet18, s3d
from fastdual.backbones.custom import load_custom_backbone
from fastdual.backbones.padding import pad_middle_channels
from fastdual.errors import InputError

_BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "tiny": residual.tiny,
    "r2plus1d": residual.r2plus1d,
    "r3d": residual.r3d,
    "c3d": c3d.C3D,
    "s3d": s3d.s3d,
    "s3d-g": s3d.s3d_g,
    "r2plus1d-18": resnet18.r2plus1d_18,
    "r3d-18": resnet18.r3d_18,
}
# T, H, W below which a pooling layer has nothing left; the others take any size. S3D computes with
# 5 frames as well, but torch's backward of its stem, 7 frames long, then corrupts a CPU's memory.
_SMALLEST_CLIP = {"c3d": (8, 16, 16), "s3d": (6, 17, 17), "s3d-g": (6, 17, 17)}


def backbone_names() -> tuple[str, ...]:
    """Return the names of the built-in backbones."""
    return tuple(_BUILDERS)


def create_backbone(
    name: str, *, clip_shape: tuple[int, int, int] = (16, 112, 112), channel_multiple: int = 1
) -> nn.Module:
    """Return a freshly initialised backbone with `.feature_dim`.

    Args:
        name: One of `backbone_names()`, or "package.module:factory" of a custom backbone.
        clip_shape: T, H, W of the clips: frames, pixels, pixels.
        channel_multiple: Middle channels of factored convolutions are padded to a multiple of it.

    Raises:
        InputError: Unknown name, clips too small for it, nothing to pad, or a custom backbone that
            fails.
    """
    backbone = _build(name, clip_shape)
    if channel_multiple > 1:
        pad_middle_channels(backbone, multiple=channel_multiple)
    return backbone


def _build(name: str, clip_shape: tuple[int, int, int]) -> nn.Module:
    if ":" in name:
        return load_custom_backbone(name, clip_shape=clip_shape)
    if name not in _BUILDERS:
        raise InputError(
            f"unknown backbone {name!r}: choose one of {', '.join(_BUILDERS)}, "
            "or give your own as package.module:factory"
        )
    smallest = _SMALLEST_CLIP.get(name, (1, 1, 1))
    if any(size < least for size, least in zip(clip_shape, smallest, strict=True)):
        raise InputError(
            f"backbone {name} needs clips of at least {_dims(smallest)} (frames x height x width), "
            f"not {_dims(clip_shape)}: raise frames_per_clip or crop_size, or take another backbone"
        )
    return _BUILDERS[name]()


def _dims(shape: tuple[int, int, int]) -> str:
    return "x".join(map(str, shape))
