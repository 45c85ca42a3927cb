"""Networks out of checkpoints of other code, matched by the names and shapes of their entries.

A name may stand under any prefix (`state_dict.module.encoder_q.0.`), and wrappers may have put a
word of theirs anywhere into it (`layer1._orig_mod.0`): the prefix that most of a network's names
have is its place.
"""

import pickle
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from fastdual.backbones import create_backbone
from fastdual.config import PretrainConfig, resolve
from fastdual.errors import InputError, first_line, shown
from fastdual.loaders.files import sha256_of
from fastdual.model.encoder import VideoEncoder
from fastdual.run.checkpoint import load_weights, verify_archive
from fastdual.weights.export import SUFFIX, TORCHVISION_NAMES, with_aliases

# What DistributedDataParallel, torch.compile, FSDP and DeepSpeed put into names.
_WRAPPERS = frozenset(
    {"module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
)
_CONTAINERS = ("state_dict", "model_state_dict", "model")
# Of several copies of a network, the one that is trained, not the one that follows it.
_FOLLOWERS = ("encoder_k", "momentum", "teacher", "target", "ema")
# Of torchvision's Kinetics networks, by its reference code: 16 frames at 15 of 30 per second.
_TORCHVISION_CLIPS: Mapping[str, Any] = {
    "clip.frames_per_clip": 16,
    "clip.frame_stride": 2,
    "clip.resize_height": 128,
    "clip.resize_width": 171,
    "clip.crop_size": 112,
    "clip.mean": (0.43216, 0.394666, 0.37645),
    "clip.std": (0.22803, 0.22145, 0.216989),
}
_MAX_DEPTH = 8  # of dicts within dicts


@dataclass(frozen=True)
class ImportReport:
    """What became of the entries of a foreign checkpoint.

    Attributes:
        prefix: What the names of the network's entries began with there, without wrappers' words.
        taken: Number of entries that the network got.
        left: Number of entries left, by the first part of their name.
        known_clips: Whether the clips that it was trained on are known.
    """

    prefix: str
    taken: int
    left: Mapping[str, int]
    known_clips: bool = False

    def describe(self) -> str:
        """Return one line for people."""
        left = ", ".join(f"{name} ({count})" for name, count in self.left.items()) or "nothing"
        return f"taken: {self.taken} entries under {self.prefix or 'no prefix'!r}; left: {left}"


@dataclass(frozen=True)
class ForeignWeights:
    """The tensors of a checkpoint of other code.

    Attributes:
        path: Its file.
        entries: By name, without wrappers' words.
    """

    path: Path
    entries: Mapping[str, Tensor]

    def place_of(self, module: nn.Module, prefix: str | None = None) -> str:
        """Return the prefix that a module's names have here.

        Args:
            module: A network.
            prefix: Given by the user, where there are several copies; None: found.

        Raises:
            InputError: Nothing has its names, or several copies of it do.
        """
        wanted = {name: value.shape for name, value in module.state_dict().items()}
        counts: Counter[str] = Counter()
        for key, value in self.entries.items():
            # Every end of a name that begins after a dot may be a name of ours.
            starts = [0, *(i + 1 for i, letter in enumerate(key) if letter == ".")]
            for start in starts:
                shape = wanted.get(key[start:])
                # A name in the right shape counts for more than many in another.
                counts[key[:start]] += 0 if shape is None else 1000 if shape == value.shape else 1
        if prefix is not None:
            prefix = prefix.rstrip(".") + "." if prefix.strip(".") else ""
            counts = Counter({prefix: counts[prefix]})
        most = max(counts.values(), default=0)
        if most == 0:
            first = ", ".join(shown(key) for key in list(self.entries)[:3])
            raise InputError(
                f"{self.path}: none of its {len(self.entries)} entries has a name of the network "
                f"asked for; they begin with {first}; name the backbone that it holds"
            )
        # A trained network that lacks a name is told so, not replaced by its whole follower.
        trained = {p: c for p, c in counts.items() if not any(word in p for word in _FOLLOWERS)}
        if max(trained.values(), default=0) >= most / 2:
            most, counts = max(trained.values()), Counter(trained)
        best = [place for place, count in counts.items() if count == most]
        if len(best) > 1:
            raise InputError(
                f"{self.path}: holds {len(best)} networks of these names and shapes, under "
                f"{', '.join(map(shown, best[:5]))}; choose one with --prefix"
            )
        return best[0]

    def take(
        self, module: nn.Module, prefix: str | None = None
    ) -> tuple[dict[str, Tensor], ImportReport]:
        """Return a module's weights under its own names, and what was taken and left.

        Raises:
            InputError: As `place_of`; or entries that the module lacks, does not know or has in
                another shape; the first are named.
        """
        place, wanted = self.place_of(module, prefix), module.state_dict()
        parts = {name.partition(".")[0] for name in wanted}
        found = {k[len(place) :]: v for k, v in self.entries.items() if k.startswith(place)}
        # Heads and classifiers beside the network are left; what lies inside of it must be known.
        own = {name: v for name, v in found.items() if name.partition(".")[0] in parts}
        taken, left = len(own), Counter(_first_parts(k) for k in self.entries)
        left -= Counter(_first_parts(place + name) for name in own)
        weights = with_aliases(module, own)
        for name, value in wanted.items():  # torch wrote no counts of batches before version 0.4
            if name.endswith("num_batches_tracked"):
                weights.setdefault(name, torch.zeros_like(value))
        for name, value in weights.items():
            is_count = name.endswith("num_batches_tracked")
            if not value.is_floating_point() and not is_count:
                raise InputError(
                    f"{self.path}: {place}{name} is of type {value.dtype}; weights must be real "
                    "floating-point numbers, so save them as such with the code that wrote them"
                )
        load_weights(module, weights, origin=self.path)
        return weights, ImportReport(place, taken, dict(left))


def read_foreign(path: Path) -> ForeignWeights:
    """Read the tensors of a torch file, opened with weights_only, or of a safetensors file.

    Raises:
        InputError: No such file, a damaged one, one that holds other objects or that unpacks to
            more than it is; an entry that comes twice; one that is not a plain finite tensor.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint file")
    state, found = _load(path), dict[str, Tensor]()
    for container in _CONTAINERS:
        if isinstance(state, Mapping) and isinstance(state.get(container), Mapping):
            state = state[container]
    _collect(state, "", 0, found)
    entries: dict[str, Tensor] = {}
    origins: dict[str, str] = {}
    for key, value in found.items():
        name = ".".join(part for part in key.split(".") if part not in _WRAPPERS)
        if name in entries:
            raise InputError(
                f"{path}: holds both {shown(origins[name])} and {shown(key)}, which are one entry "
                "but for a wrapper's word; save one of them"
            )
        entries[name], origins[name] = value, key
    if not entries:
        raise InputError(f"{path}: holds no state dict")
    return ForeignWeights(path, entries)


def _load(path: Path) -> Any:
    try:
        if path.suffix == SUFFIX:
            return safetensors.torch.load_file(path)
        with open(path, "rb") as file:
            if zipfile.is_zipfile(file):
                verify_archive(file)
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"{path}: holds objects other than tensors and plain values, which would run as "
            "programs; save its state dict alone with the code that it belongs to"
        ) from None
    except Exception as error:  # torch raises whatever the parts of a foreign file raise
        raise InputError(f"{path}: damaged, or not a torch file ({first_line(error)})") from None


def _collect(value: Any, prefix: str, depth: int, found: dict[str, Tensor]) -> None:
    """Gather tensors from dicts within dicts by dotted name."""
    if isinstance(value, Tensor):
        found[prefix] = value
    elif isinstance(value, Mapping) and depth < _MAX_DEPTH:
        for key, inner in value.items():
            name = f"{prefix}.{key}" if prefix else str(key)
            _collect(inner, name, depth + 1, found)


def _first_parts(key: str) -> str:
    parts = key.split(".")
    return ".".join(parts[:2]) if len(parts) > 2 and parts[1].isdigit() else parts[0]


def import_backbone(
    path: Path, name: str, *, settings: Sequence[str] = (), prefix: str | None = None
) -> tuple[VideoEncoder, ImportReport]:
    """Take the backbone out of a checkpoint of other code.

    Args:
        path: A torch file of tensors, or a safetensors file.
        name: The backbone that it holds, a name of `fastdual.backbones`.
        settings: Texts `clip.KEY=VALUE`: the clips that it was trained on.
        prefix: What the names of the backbone's entries begin with; None: found.

    Raises:
        InputError: As `read_foreign` and `ForeignWeights.take`; or a setting that is refused.
    """
    foreign = read_foreign(path)
    config = resolve_import(foreign, name, settings)
    backbone = create_backbone(name, clip_shape=config.clip.clip_shape)
    _, report = foreign.take(backbone, prefix)
    report = replace(report, known_clips=_is_of_torchvision(foreign, name))
    return VideoEncoder(backbone, config, weights_sha256=sha256_of(path)), report


def resolve_import(foreign: ForeignWeights, name: str, settings: Sequence[str]) -> PretrainConfig:
    """Return the config of a network of other code: its clips as they are known, or as given."""
    for setting in settings:
        if not setting.strip().startswith("clip."):
            raise InputError(f"--set {shown(setting)}: only keys of clip are known of other code")
    known = _TORCHVISION_CLIPS if _is_of_torchvision(foreign, name) else {}
    layers = [("--backbone", {"model.backbone": name}), ("torchvision", known)]
    return resolve(layers, settings).config


def _is_of_torchvision(foreign: ForeignWeights, name: str) -> bool:
    """Whether these are torchvision's own weights, with their 400 classes of Kinetics."""
    classifier = foreign.entries.get("fc.weight")
    return name in TORCHVISION_NAMES and classifier is not None and len(classifier) == 400
