"""Losses of other libraries (requirements/loss-contestants.txt), without the rest of them.

Importing lightly or open_clip imports torchvision, which does not work with a CPU build of torch.
So the file of the loss is loaded alone, and empty packages stand in for those above it.
"""

import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType

from torch import Tensor, nn


class ContestantMissingError(RuntimeError):
    """A library is not installed, or cannot run here."""


def lightly_nt_xent(*, temperature: float) -> nn.Module:
    """Load lightly's NTXentLoss: (out0 [B, D], out1 [B, D]) -> 0-d."""
    # The memory bank imports lightly.models.utils; of size 0, as here, it does not use it.
    module = _import_without_packages(
        "lightly",
        "lightly.loss.ntx_ent_loss",
        packages=("lightly", "lightly.loss", "lightly.models", "lightly.models.modules"),
        empty=("lightly.models.utils",),
    )
    loss: nn.Module = module.NTXentLoss(temperature=temperature)
    return loss


def open_clip_loss() -> nn.Module:
    """Load open_clip's ClipLoss: (image [N, D], text [N, D], logit_scale) -> 0-d."""
    module = _import_without_packages(
        "open_clip_torch", "open_clip.loss", packages=("open_clip",), empty=()
    )
    loss: nn.Module = module.ClipLoss()
    return loss


def metric_learning_supcon(*, temperature: float) -> nn.Module:
    """Load pytorch-metric-learning's SupConLoss: (embeddings [N, D], labels [N]) -> 0-d."""
    loss: nn.Module = _import("pytorch_metric_learning.losses").SupConLoss(temperature=temperature)
    return loss


def inf_cl_loss() -> Callable[..., Tensor]:
    """Load Inf-CL's one-process loss: (image [N, D], text [N, D], scale=...) -> [N]; needs CUDA."""
    loss: Callable[..., Tensor] = _import("inf_cl.flash").cal_flash_loss
    return loss


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ContestantMissingError(f"{name}: {error}") from error


def _import_without_packages(
    distribution: str, name: str, *, packages: tuple[str, ...], empty: tuple[str, ...]
) -> ModuleType:
    """Import a module, but run no `__init__` of `packages` and no code of the modules `empty`."""
    try:
        root = importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError as error:
        raise ContestantMissingError(
            f"{distribution} is not installed: see requirements/loss-contestants.txt"
        ) from error
    before = dict(sys.modules)
    try:
        for package in (*packages, *empty):
            stand_in = ModuleType(package)
            stand_in.__path__ = [str(root.locate_file(package.replace(".", "/")))]
            sys.modules[package] = stand_in
            parent, _, child = package.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, stand_in)
        return importlib.import_module(name)
    finally:
        # Later imports must not find the stand-ins.
        top = name.partition(".")[0]
        for loaded in [module for module in sys.modules if module.partition(".")[0] == top]:
            del sys.modules[loaded]
        sys.modules.update(before)
