"""A backbone as a file for other programs, and back: safetensors, torchvision's state dict.

A safetensors file holds the weights and, in its header, everything needed to use them.
"""

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from fastdual._version import __version__
from fastdual.config import PretrainConfig
from fastdual.errors import InputError
from fastdual.loaders.files import write
from fastdual.model.encoder import VideoEncoder

SUFFIX = ".safetensors"
HEADER_KEY = "fastdual"
TORCHVISION_NAMES = {"r2plus1d-18": "r2plus1d_18", "r3d-18": "r3d_18"}


def header(encoder: VideoEncoder) -> dict[str, Any]:
    """Return what the metadata of an exported file say of it: config, weights, version."""
    return {
        "config": encoder.config.to_dict(),
        "source": encoder.weights_sha256,
        "fastdual": __version__,
    }


def export_safetensors(encoder: VideoEncoder, path: Path) -> None:
    """Write weights and config as one safetensors file; tensors of two names are written once.

    Raises:
        FailureError: The file cannot be written.
    """
    state = encoder.backbone.state_dict()
    kept = {names[0]: state[names[0]].contiguous().cpu() for names in _names_of_tensors(state)}
    metadata = {"format": "pt", HEADER_KEY: json.dumps(header(encoder))}
    write(path, safetensors.torch.save(kept, metadata=metadata), "the export")


def read_safetensors(path: Path) -> tuple[PretrainConfig, dict[str, Tensor]]:
    """Return the config and the weights of the backbone that `export_safetensors` wrote.

    Raises:
        InputError: No such file, a damaged one, or one that fastdual did not write.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; fastdual export writes one")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            found = json.loads((file.metadata() or {}).get(HEADER_KEY, "null"))
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        values = {k: v for k, v in found["config"].items() if v is not None} if found else None
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"{path}: damaged, or not safetensors ({reason}); export again") from None
    if values is None:
        raise InputError(
            f"{path}: safetensors, but not from fastdual export: it does not say which network"
        )
    return PretrainConfig.from_dict(values, origin=str(path)), weights


def export_torchvision(encoder: VideoEncoder, path: Path) -> None:
    """Write a state dict that torchvision's network of this name loads, all but its classifier.

    Raises:
        InputError: A network that torchvision does not have.
        FailureError: The file cannot be written.
    """
    name = encoder.config.model.backbone
    if name not in TORCHVISION_NAMES:
        raise InputError(
            f"--format torchvision: torchvision has no {name}, only "
            f"{' and '.join(TORCHVISION_NAMES)}; use --format safetensors"
        )
    buffer = io.BytesIO()
    torch.save({k: v.cpu() for k, v in encoder.backbone.state_dict().items()}, buffer)
    write(path, buffer.getbuffer(), "the export")


def with_aliases(module: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `weights`, also under the other names of tensors that the module has under two."""
    full = dict(weights)
    for names in _names_of_tensors(module.state_dict()):
        known = [name for name in names if name in weights]
        if known:
            full |= {name: weights[known[0]] for name in names if name not in full}
    return full


def _names_of_tensors(state: Mapping[str, Tensor]) -> Iterable[list[str]]:
    """Return the names of each tensor of a state dict: S3D has most of its tensors under two."""
    names: dict[tuple[int, torch.Size], list[str]] = {}
    for name, tensor in state.items():
        names.setdefault((tensor.data_ptr(), tensor.shape), []).append(name)
    return names.values()
