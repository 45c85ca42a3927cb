"""A backbone as a file for other programs, and back: safetensors, torchvision's state dict.

A safetensors file holds the weights and, in its header, everything needed to use them.
"""

import hashlib
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
from fastdual.errors import InputError, contents_of, first_line
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
    said = json.dumps(header(encoder) | {"weights_checksum": checksum(kept)})
    content = safetensors.torch.save(kept, metadata={"format": "pt", HEADER_KEY: said})
    write(path, _in_one_order(content), "the export")


def checksum(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors: their names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].contiguous().cpu()
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _in_one_order(content: bytes) -> bytes:
    """Return a safetensors file with its header in one order: the library's is by chance."""
    size = int.from_bytes(content[:8], "little")
    entries = json.loads(content[8 : 8 + size])
    entries["__metadata__"] = dict(sorted(entries["__metadata__"].items()))
    head = json.dumps(entries, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head + content[8 + size :]


def read_safetensors(path: Path) -> tuple[PretrainConfig, dict[str, Tensor]]:
    """Return the config and the weights of the backbone that `export_safetensors` wrote.

    Raises:
        InputError: No such file, a damaged one, or one that fastdual did not write.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; fastdual export writes one")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(HEADER_KEY)
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        reason = first_line(error)
        raise InputError(f"{path}: damaged, or not safetensors ({reason}); export again") from None
    if text is None:
        raise InputError(
            f"{path}: safetensors, but not from fastdual export: it does not say which network"
        )
    with contents_of(f"{path}: its header", "export again"):
        found = json.loads(text)
        values = {k: v for k, v in found["config"].items() if v is not None}
        stored = found.get("weights_checksum")
    if stored is not None and stored != checksum(weights):  # exports of before have none
        raise InputError(
            f"{path}: damaged: the checksum of its weights is not the stored one; export again"
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
