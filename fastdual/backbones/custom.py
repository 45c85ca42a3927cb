"""A custom backbone: any nn.Module, named "package.module:factory".

Such a name runs code, and files contain it: checkpoints, exports, the config of a run. It is
imported only if the user has named it too (`named_backbone`), so that no file can choose which
code runs.
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastdual.errors import InputError

_named: set[str] = set()


@contextmanager
def named_backbone(name: str | None) -> Iterator[None]:
    """Let files ask for this backbone while the block runs; None changes nothing."""
    added = {name} - _named if name is not None else set()
    _named.update(added)
    try:
        yield
    finally:
        _named.difference_update(added)


def check_named(name: str, *, origin: str) -> None:
    """Make sure that a backbone that a file asks for is built in, or was named by the user.

    Args:
        name: Name of the backbone, as the file has it.
        origin: Name of the file in the error.

    Raises:
        InputError: Only the file names this code.
    """
    if ":" in name and name not in _named:
        raise InputError(
            f"{origin}: its backbone is {name!r}, so loading it would run that code; if you trust "
            f"it, name it yourself: --backbone {name} (in Python: fastdual.load(..., backbone=...))"
        )


class CustomBackbone(nn.Module):
    """A custom network in the shape of ours: [N, F, t, h, w] out and `feature_dim`."""

    def __init__(self, network: nn.Module, *, feature_dim: int) -> None:
        super().__init__()
        self.network = network
        self.feature_dim = feature_dim

    def forward(self, clips: Tensor) -> Tensor:
        """Map [N, 3, T, H, W] to [N, F, t, h, w]; pooled features [N, F] get t = h = w = 1."""
        features: Tensor = self.network(clips)
        return features[:, :, None, None, None] if features.ndim == 2 else features


def load_custom_backbone(name: str, *, clip_shape: tuple[int, int, int]) -> CustomBackbone:
    """Import "package.module:factory", call the factory, and find F by a forward pass of two clips.

    Args:
        name: Its module is looked for among the installed ones, then in the current folder.
        clip_shape: T, H, W of the two clips.

    Raises:
        InputError: The import, the factory or the shape of its output is wrong.
    """
    factory = _find_factory(name)
    try:
        network = factory()
    except Exception as error:
        raise InputError(f"backbone {name}: calling it without arguments failed: {error}") from None
    if not isinstance(network, nn.Module):
        raise InputError(
            f"backbone {name}: it returned type {type(network).__name__}, not a torch.nn.Module"
        )
    return CustomBackbone(network, feature_dim=_dry_run(name, network, clip_shape))


def _find_factory(name: str) -> Callable[[], Any]:
    module_name, _, factory_name = name.partition(":")
    try:
        with _current_folder_importable():
            module = importlib.import_module(module_name)
    except Exception as error:
        raise InputError(
            f"backbone {name}: cannot import {module_name!r} ({type(error).__name__}: {error}); "
            "install it or start from the folder that holds it"
        ) from None
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        raise InputError(
            f"backbone {name}: {module_name} has no function or class {factory_name!r}"
        )
    return factory  # type: ignore[no-any-return]


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    """Append the current folder to the path: a local file never shadows an installed package."""
    folder = str(Path.cwd())
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _dry_run(name: str, network: nn.Module, clip_shape: tuple[int, int, int]) -> int:
    shape = (2, 3, *clip_shape)
    was_training = network.training
    network.eval()  # a dry run must not move batch-norm statistics
    try:
        with torch.no_grad():
            out = network(torch.zeros(shape))
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"backbone {name}: it fails on clips {list(shape)}: {reason}") from None
    finally:
        network.train(was_training)
    if not isinstance(out, Tensor) or out.ndim not in (2, 5) or out.shape[0] != 2:
        got = list(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise InputError(
            f"backbone {name}: clips {list(shape)} must give features [2, F] or [2, F, t, h, w], "
            f"not {got}; remove its classifier"
        )
    return int(out.shape[1])
