"""The weights that a new pretraining run begins with: ours, or those of other code."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastdual._version import __version__
from fastdual.config import PretrainConfig
from fastdual.errors import InputError
from fastdual.loaders.files import sha256_of
from fastdual.model.dual import DualModel, create_model
from fastdual.run.checkpoint import check_weights, find_checkpoint
from fastdual.weights.foreign import (
    ForeignWeights,
    ImportReport,
    read_foreign,
    resolve_import,
)

# Where other code keeps the two layers of a head, beside the backbone: the paper's, in both forms.
_HEADS = {
    "clip_head": (
        "clip_head.0",
        "clip_head.2",
        "encoder_q.2",
        "encoder_q.4",
        "encoder.2",
        "encoder.4",
    ),
    "segment_head": (
        "segment_head.0",
        "segment_head.2",
        "series_proj_head.0",
        "series_proj_head.2",
    ),
}


@dataclass(frozen=True)
class InitialWeights:
    """Weights for a model that is about to be trained.

    Attributes:
        weights: Under the model's own names; those that are missing stay as the seed draws them.
        report: What was taken of the file, and what was left.
        heads: The heads that were taken.
    """

    weights: Mapping[str, Tensor]
    report: ImportReport
    heads: tuple[str, ...]

    def describe(self) -> str:
        """Return one line for people."""
        heads = " and ".join(name.replace("_", " ") for name in self.heads)
        return f"{self.report.describe()}; {heads or 'no head'} taken, the rest is drawn"


def initial_file(path: Path) -> tuple[Path, str]:
    """Return the file that a path stands for, a run folder's newest checkpoint, and its SHA-256.

    Raises:
        InputError: There is none.
    """
    file = find_checkpoint(path)
    return file, sha256_of(file)


def read_initial(file: Path, config: PretrainConfig) -> InitialWeights:
    """Return the weights of a file that fit a model: its backbone, and the heads that are there.

    Raises:
        InputError: As `read_foreign`; or the file does not hold the whole backbone.
    """
    return _take(read_foreign(file), config, None)


def import_with_heads(
    path: Path, name: str, *, settings: Sequence[str] = (), prefix: str | None = None
) -> tuple[dict[str, Any], InitialWeights]:
    """Return what a checkpoint of a network of other code holds, with both of its heads.

    `load_network` reads it as one of a run of no steps; the sizes of the heads are the file's.

    Args:
        path: A file of other code.
        name: The backbone that it holds.
        settings: Texts `clip.KEY=VALUE`: the clips that it was trained on.
        prefix: What the names of the backbone's entries begin with; None: found.

    Raises:
        InputError: As `import_backbone`; or the file has not both heads.
    """
    foreign = read_foreign(path)
    config = resolve_import(foreign, name, settings)
    clip, segments = (_size_of(foreign, head) for head in _HEADS)
    if not clip or not segments or segments % config.clip.num_segments:
        raise InputError(
            f"{path}: holds no clip head or no head of {config.clip.num_segments} segments; export "
            "the backbone alone (-o x.safetensors), or say --set clip.num_segments=N"
        )
    sizes: dict[str, Any] = {"clip_dim": clip, "segment_dim": segments // config.clip.num_segments}
    config = replace(config, model=replace(config.model, **sizes, init=sha256_of(path)))
    taken = _take(foreign, config, prefix)
    if len(taken.heads) < len(_HEADS):
        raise InputError(f"{path}: its heads do not lie beside its backbone; export that alone")
    versions = {"fastdual": __version__, "torch": str(torch.__version__)}
    state = {"step": 0, "config": config.to_dict(), "model": dict(taken.weights)}
    return {**state, "versions": versions}, taken


def _size_of(foreign: ForeignWeights, head: str) -> int:
    """Return the size of a head's output; 0: there is no such head."""
    for last in _HEADS[head][1::2]:
        for key, value in foreign.entries.items():
            if f".{key}".endswith(f".{last}.weight") and value.ndim >= 2:
                return len(value)
    return 0


def _take(foreign: ForeignWeights, config: PretrainConfig, prefix: str | None) -> InitialWeights:
    with torch.random.fork_rng():
        model = create_model(config)
    backbone, report = foreign.take(model.backbone, prefix)
    weights = {f"backbone.{name}": value for name, value in backbone.items()}
    heads = []
    for name in _HEADS:
        found = _head(foreign, model, name, report.prefix)
        if found:
            heads.append(name)
            weights |= found
    check_weights(weights, origin=foreign.path)
    return InitialWeights(weights, report, tuple(heads))


def _head(
    foreign: ForeignWeights, model: DualModel, name: str, place: str
) -> dict[str, Tensor] | None:
    """Return a head's weights under the model's names, if the file has one of the same shape."""
    wanted = {k: v for k, v in model.state_dict().items() if k.startswith(f"{name}.")}
    layers = _HEADS[name]
    # Beside the backbone, in the same wrapper or in the one around it.
    parts = place.split(".")
    for first, last in zip(layers[::2], layers[1::2], strict=True):
        for depth in range(len(parts), -1, -1):
            start = ".".join(parts[:depth]) + "." if depth else ""
            found = {
                key: foreign.entries.get(
                    f"{start}{first if '.0.' in key else last}.{key.rpartition('.')[2]}"
                )
                for key in wanted
            }
            # Other code has its layers as convolutions over one place: [out, in, 1, 1, 1].
            fitting = {
                key: value.reshape(wanted[key].shape)
                for key, value in found.items()
                if value is not None
                and value.shape[: wanted[key].ndim] == wanted[key].shape
                and value.numel() == wanted[key].numel()
            }
            if len(fitting) == len(wanted):
                return fitting
    return None
