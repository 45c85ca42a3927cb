"""Backbones in and out: a ready network from a run or file, export, checkpoints of other code.

Exports are safetensors files (weights and, in the header, everything needed to use them) or plain
torchvision state dicts. Foreign checkpoints are opened with weights_only and matched key by key.
"""

import hashlib
import io
import json
import pickle
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from fastdual._version import __version__
from fastdual.backbones import create_backbone
from fastdual.backbones.custom import check_named, named_backbone
from fastdual.config.sections import FIXED_KEYS, PretrainConfig
from fastdual.errors import FailureError, InputError, why_not_written
from fastdual.loaders.index.file import is_index
from fastdual.loaders.index.pack_file import is_pack
from fastdual.model.encoder import VideoEncoder
from fastdual.run.checkpoint import find_checkpoint, load_checkpoint, load_weights, write_atomically

TORCHVISION_NAMES = {"r2plus1d-18": "r2plus1d_18", "r3d-18": "r3d_18"}
_HEADER = "fastdual"
# Where other code puts the backbone: ours, the paper's and CoCLR's family, a plain state dict.
_PREFIXES = ("backbone.", "encoder_q.0.", "encoder.0.", "0.", "encoder.", "")
_CONTAINERS = ("state_dict", "model_state_dict", "model")


@dataclass(frozen=True)
class ImportReport:
    """What became of the entries of a foreign checkpoint.

    Attributes:
        prefix: what the backbone's entries began with there.
        taken: number of entries that the backbone got.
        left: number of entries left, by the first part of their name.
    """

    prefix: str
    taken: int
    left: Mapping[str, int]

    def describe(self) -> str:
        """One line for people."""
        left = ", ".join(f"{name} ({count})" for name, count in self.left.items()) or "nothing"
        return f"taken: {self.taken} entries under {self.prefix or 'no prefix'!r}; left: {left}"


def load(path: Path | str, *, device: str = "cpu", backbone: str | None = None) -> VideoEncoder:
    """A ready network, in evaluation mode, from a run folder, a checkpoint or an exported file.

    Args:
        path: the run folder, whose newest checkpoint is taken, or the file.
        device: where the network goes.
        backbone: "package.module:factory", if the network was trained on a backbone of your own:
            what a file names is not imported unless you name it too.

    Raises:
        InputError: nothing there, a damaged file, or weights that do not fit. Never random weights.
    """
    path = Path(path)
    refuse_videos(path)
    if backbone is not None:
        with named_backbone(backbone):
            return load(path, device=device)
    if path.suffix == ".safetensors":
        encoder = _load_safetensors(path)
    else:
        file = find_checkpoint(path)
        state = load_checkpoint(file)
        config = _config_of(state, origin=str(file))
        part = "backbone."
        weights = {k[len(part) :]: v for k, v in state["model"].items() if k.startswith(part)}
        encoder = _encoder(config, weights, origin=file)
    return encoder.to(device).eval()


def refuse_videos(path: Path) -> None:
    """Say what is wrong where videos were named in place of a network.

    Raises:
        InputError: an index or a pack.
    """
    if is_index(path) or is_pack(path):
        raise InputError(f"{path}: an index or pack of videos; name the run first, then the videos")


def load_random(path: Path, *, seed: int) -> VideoEncoder:
    """The network that `load` gives, with untrained weights: a baseline, only when asked for.

    Raises:
        InputError: as `load`.
    """
    config = load(path).config
    shape = (config.clip.frames_per_clip, config.clip.crop_size, config.clip.crop_size)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = create_backbone(config.model.backbone, clip_shape=shape)
    return VideoEncoder(backbone, config, identity=f"random weights, seed {seed}").eval()


def import_backbone(path: Path, name: str) -> tuple[VideoEncoder, ImportReport]:
    """Take the backbone out of a checkpoint of other code.

    Known layouts: the paper's research code and CoCLR's family (`encoder_q.0.*`), torchvision's
    18-layer networks, ours, a bare state dict; each also as DistributedDataParallel names it.

    Args:
        path: a torch file of tensors; it is opened with weights_only.
        name: the backbone that it holds, a name of `fastdual.backbones`.

    Raises:
        InputError: not such a file, or entries that the backbone lacks, knows not or has in another
            shape; the first are named.
    """
    entries = _read_state_dict(path)
    config = PretrainConfig.from_dict({"model.backbone": name}, origin="--backbone")
    wanted = create_backbone(name).state_dict()
    prefix = max(
        _PREFIXES, key=lambda p: sum(k.startswith(p) and k[len(p) :] in wanted for k in entries)
    )
    own = {key[len(prefix) :]: key for key in entries if key.startswith(prefix)}
    if prefix == "":  # a bare state dict: a classifier beside the backbone is left
        own = {key: key for key in own if key in wanted or not key.startswith(("fc.", "final_"))}
    weights = {key: entries[there] for key, there in own.items()}
    with named_backbone(name):
        encoder = _encoder(config, weights, origin=path)
    taken = set(own.values())
    left = Counter(_first_parts(key) for key in entries if key not in taken)
    return encoder, ImportReport(prefix, len(taken), dict(left))


def export_safetensors(encoder: VideoEncoder, path: Path) -> None:
    """Write weights and config as one safetensors file; tensors of two names are written once.

    Raises:
        FailureError: the disk is full or the folder cannot be written.
    """
    state = encoder.backbone.state_dict()
    first: dict[tuple[int, torch.Size], str] = {}
    for name, tensor in state.items():
        first.setdefault((tensor.data_ptr(), tensor.shape), name)
    kept = {name: state[name].contiguous().cpu() for name in first.values()}
    header = {
        "config": encoder.config.to_dict(),
        "source": encoder.identity,
        "fastdual": __version__,
    }
    metadata = {"format": "pt", _HEADER: json.dumps(header)}
    _write(path, safetensors.torch.save(kept, metadata=metadata))


def export_torchvision(encoder: VideoEncoder, path: Path) -> None:
    """Write a state dict that torchvision's network of this name loads, all but its classifier.

    Raises:
        InputError: torchvision has no such network.
        FailureError: the disk is full or the folder cannot be written.
    """
    name = encoder.config.model.backbone
    if name not in TORCHVISION_NAMES:
        raise InputError(
            f"--format torchvision: torchvision has no {name}, only "
            f"{' and '.join(TORCHVISION_NAMES)}; use --format safetensors"
        )
    buffer = io.BytesIO()
    torch.save({k: v.cpu() for k, v in encoder.backbone.state_dict().items()}, buffer)
    _write(path, buffer.getvalue())


def _write(path: Path, content: bytes) -> None:
    try:
        write_atomically(path, content)
    except OSError as error:
        raise FailureError(f"{path}: could not be written: {why_not_written(error)}") from error


def _encoder(
    config: PretrainConfig, weights: Mapping[str, Tensor], *, origin: Path
) -> VideoEncoder:
    check_named(config.model.backbone, origin=str(origin))
    clip = config.clip
    clip_shape = (clip.frames_per_clip, clip.crop_size, clip.crop_size)
    backbone = create_backbone(config.model.backbone, clip_shape=clip_shape)
    load_weights(backbone, _with_aliases(backbone, weights), origin=origin)
    with open(origin, "rb") as file:
        identity = hashlib.file_digest(file, "sha256").hexdigest()
    return VideoEncoder(backbone, config, identity=identity)


def _config_of(state: Mapping[str, Any], *, origin: str) -> PretrainConfig:
    """The config of a checkpoint; of a fine-tuned one, what it says of the clips and backbone."""
    values = state["config"]
    if state.get("task") == "finetune":
        values = {
            key: value
            for key, value in values.items()
            if key == "model.backbone" or (key.startswith("clip.") and key not in FIXED_KEYS)
        }
    return PretrainConfig.from_dict(values, origin=origin)


def _with_aliases(backbone: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`weights`, also under the other names of tensors that the backbone has under two."""
    names: dict[tuple[int, torch.Size], list[str]] = {}
    for name, tensor in backbone.state_dict().items():
        names.setdefault((tensor.data_ptr(), tensor.shape), []).append(name)
    full = dict(weights)
    for aliases in names.values():
        known = [name for name in aliases if name in weights]
        for name in aliases:
            if known and name not in full:
                full[name] = weights[known[0]]
    return full


def _load_safetensors(path: Path) -> VideoEncoder:
    if not path.is_file():
        raise InputError(f"{path}: no such file; fastdual export writes one")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(_HEADER, "null"))
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        values = {k: v for k, v in header["config"].items() if v is not None} if header else None
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"{path}: damaged, or not safetensors ({reason}); export again") from None
    if values is None:
        raise InputError(
            f"{path}: safetensors, but not from fastdual export: it does not say which network"
        )
    return _encoder(PretrainConfig.from_dict(values, origin=str(path)), weights, origin=path)


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    """All tensors of a torch file by name, without the prefixes of DistributedDataParallel."""
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
