"""Middle channels padded with zeros, to a number that tensor cores compute fast.

A factored convolution of R(2+1)D has 83, 230, 460 or 921 channels between its halves, widths for
which the fast matrix units have no kernel. With the rows of the spatial weights, the batch norm's
scale and shift, and the columns of the temporal weights at zero, an added channel is zero before
and after the batch norm, and the gradients of all of its weights are zero: momentum, weight decay
and Adam's moments leave it there. So the network computes what it did, and trains as it did.

State dicts are those of the network without them: checkpoints and exports hold no padding.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastdual.backbones.layers import FactoredConv3d
from fastdual.backbones.resnet18 import FactoredSequential
from fastdual.errors import InputError

# Widths of bf16 that tensor cores take.
_GPU_MULTIPLE = 8


def pad_for_gpu(backbone: nn.Module) -> None:
    """Pad the middle channels of factored convolutions, if there are any, for tensor cores."""
    if _factored(backbone):
        pad_middle_channels(backbone, multiple=_GPU_MULTIPLE)


def pad_middle_channels(backbone: nn.Module, *, multiple: int) -> None:
    """Round the middle channels of all factored convolutions up to a multiple, in place.

    Args:
        backbone: Initialised; its output stays the same, up to the rounding of longer sums.
        multiple: 8 or 16 for tensor cores.

    Raises:
        InputError: It has no factored convolution.
    """
    found = _factored(backbone)
    if not found:
        raise InputError(
            f"model.channel_multiple = {multiple}: this backbone has no factored convolutions, "
            "whose middle channels it pads; leave it out"
        )
    for module in found:
        spatial, norm, temporal = module.halves()
        kept = spatial.out_channels
        padded = -(-kept // multiple) * multiple
        if padded == kept:
            continue
        spatial.out_channels = norm.num_features = temporal.in_channels = padded
        _grow(spatial, ("weight",), axis=0, kept=kept, padded=padded)
        _grow(norm, ("weight", "bias", "running_mean", "running_var"), 0, kept=kept, padded=padded)
        _grow(temporal, ("weight",), axis=1, kept=kept, padded=padded)


def _factored(backbone: nn.Module) -> list[FactoredConv3d | FactoredSequential]:
    return [m for m in backbone.modules() if isinstance(m, FactoredConv3d | FactoredSequential)]


def _grow(layer: nn.Module, names: tuple[str, ...], axis: int, *, kept: int, padded: int) -> None:
    """Append zeros to some tensors of a layer, and keep them out of its state dict."""
    for name in names:
        old = getattr(layer, name)
        grown = _append_zeros(old.detach(), axis, padded)
        setattr(layer, name, nn.Parameter(grown) if isinstance(old, nn.Parameter) else grown)
    cut = partial(_cut, names=names, axis=axis, kept=kept)
    fill = partial(_fill, names=names, axis=axis, padded=padded)
    layer.register_state_dict_post_hook(cut)  # type: ignore[no-untyped-call]
    layer.register_load_state_dict_pre_hook(fill)  # type: ignore[no-untyped-call]


def _append_zeros(values: Tensor, axis: int, size: int) -> Tensor:
    shape = list(values.shape)
    shape[axis] = size - shape[axis]
    return torch.cat([values, values.new_zeros(shape)], dim=axis)


def _cut(
    layer: nn.Module,
    state: dict[str, Any],
    prefix: str,
    metadata: Any,
    *,
    names: tuple[str, ...],
    axis: int,
    kept: int,
) -> None:
    for name in names:
        state[prefix + name] = state[prefix + name].narrow(axis, 0, kept)


def _fill(
    layer: nn.Module,
    state: dict[str, Any],
    prefix: str,
    *rest: Any,
    names: tuple[str, ...],
    axis: int,
    padded: int,
) -> None:
    for name in names:
        if prefix + name in state:
            state[prefix + name] = _append_zeros(state[prefix + name], axis, padded)
