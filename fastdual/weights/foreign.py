"""Backbones out of checkpoints of other code, matched key by key.

Known layouts: the paper's research code and CoCLR's family (`encoder_q.0.*`), torchvision's
18-layer networks, ours, a bare state dict; each also as DistributedDataParallel names it.
"""

import pickle
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastdual.backbones import create_backbone
from fastdual.config import PretrainConfig
from fastdual.errors import InputError
from fastdual.loaders.files import sha256_of
from fastdual.model.encoder import VideoEncoder
from fastdual.run.checkpoint import load_weights
from fastdual.weights.export import with_aliases

# Where other code puts the backbone: ours, the paper's and CoCLR's family, a plain state dict.
_PREFIXES = ("backbone.", "encoder_q.0.", "encoder.0.", "0.", "encoder.", "")
_CONTAINERS = ("state_dict", "model_state_dict", "model")


@dataclass(frozen=True)
class ImportReport:
    """What became of the entries of a foreign checkpoint.

    Attributes:
        prefix: What the names of the backbone's entries began with there.
        taken: Number of entries that the backbone got.
        left: Number of entries left, by the first part of their name.
    """

    prefix: str
    taken: int
    left: Mapping[str, int]

    def describe(self) -> str:
        """Return one line for people."""
        left = ", ".join(f"{name} ({count})" for name, count in self.left.items()) or "nothing"
        return f"taken: {self.taken} entries under {self.prefix or 'no prefix'!r}; left: {left}"


def import_backbone(path: Path, name: str) -> tuple[VideoEncoder, ImportReport]:
    """Take the backbone out of a checkpoint of other code.

    Args:
        path: A torch file of tensors; it is opened with weights_only.
        name: The backbone that it holds, a name of `fastdual.backbones`.

    Raises:
        InputError: Not such a file, or entries that the backbone lacks, does not know or has in
            another shape; the first are named.
    """
    entries = _read_state_dict(path)
    config = PretrainConfig.from_dict({"model.backbone": name}, origin="--backbone")
    backbone = create_backbone(name, clip_shape=config.clip.clip_shape)
    wanted = backbone.state_dict()
    prefix = max(
        _PREFIXES, key=lambda p: sum(k.startswith(p) and k[len(p) :] in wanted for k in entries)
    )
    own = {key[len(prefix) :]: key for key in entries if key.startswith(prefix)}
    if prefix == "":  # a bare state dict: a classifier beside the backbone is left
        own = {key: key for key in own if key in wanted or not key.startswith(("fc.", "final_"))}
    weights = {key: entries[there] for key, there in own.items()}
    load_weights(backbone, with_aliases(backbone, weights), origin=path)
    taken = set(own.values())
    left = Counter(_first_parts(key) for key in entries if key not in taken)
    encoder = VideoEncoder(backbone, config, weights_sha256=sha256_of(path))
    return encoder, ImportReport(prefix, len(taken), dict(left))


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a torch file by name, without DistributedDataParallel's prefix."""
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint file")
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"{path}: holds objects other than tensors and plain values, which would run as "
            "programs; save its state dict alone with the code that it belongs to"
        ) from None
    except Exception as error:  # torch raises whatever the parts of a foreign file raise
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise InputError(f"{path}: damaged, or not a torch file ({reason})") from None
    for container in _CONTAINERS:
        if isinstance(state, dict) and isinstance(state.get(container), dict):
            state = state[container]
    tensors = (
        {k: v for k, v in state.items() if isinstance(v, Tensor)} if isinstance(state, dict) else {}
    )
    if not tensors:
        raise InputError(f"{path}: holds no state dict")
    return {str(key).removeprefix("module."): value for key, value in tensors.items()}


def _first_parts(key: str) -> str:
    parts = key.split(".")
    return ".".join(parts[:2]) if len(parts) > 2 and parts[1].isdigit() else parts[0]
