"""A network from a run folder, a checkpoint or an exported file: the one way to load weights."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fastdual.backbones import create_backbone
from fastdual.backbones.custom import check_named, named_backbone
from fastdual.config.sections import FIXED_KEYS, PretrainConfig
from fastdual.errors import InputError, contents_of
from fastdual.loaders.files import sha256_of
from fastdual.loaders.index.file import is_index
from fastdual.loaders.index.pack_file import is_pack
from fastdual.loaders.index.request import known_device
from fastdual.model.dual import DualModel, create_model
from fastdual.model.encoder import VideoEncoder
from fastdual.run.checkpoint import check_weights, find_checkpoint, load_checkpoint, load_weights
from fastdual.run.seen import trained_on
from fastdual.weights.export import SUFFIX, read_safetensors, with_aliases
from fastdual.weights.hub import fetch, is_address

_BACKBONE = "backbone."


@dataclass(frozen=True)
class Network:
    """A model in evaluation mode, the config that describes it, and which weights it has.

    Attributes:
        model: A DualModel with its heads, or a VideoEncoder, which has none.
        config: Of the training; of a fine-tuned network, its clips and its backbone.
        weights_sha256: SHA-256 of the file that holds the weights, or "random weights, seed N".
        trained_on: Which videos its run was trained on (`run.seen`); None where it is not known.
    """

    model: DualModel | VideoEncoder
    config: PretrainConfig
    weights_sha256: str
    trained_on: NDArray[np.uint64] | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(itertools.chain(self.model.parameters(), self.model.buffers())).device

    @property
    def encoder(self) -> VideoEncoder:
        """The model of a network that was loaded without heads."""
        assert isinstance(self.model, VideoEncoder)
        return self.model


def load_network(
    path: Path,
    *,
    heads: bool = True,
    random_weights: bool = False,
    seed: int | None = None,
    device: str = "cpu",
) -> Network:
    """Load the network of a run folder, a checkpoint or a file of `fastdual export`.

    Args:
        path: A run folder (its newest checkpoint is taken), a checkpoint, or x.safetensors.
        heads: Keep the projection heads; an export and a fine-tuned checkpoint have none.
        random_weights: Build the same network with untrained weights: the baseline that
            pretraining has to beat. Never done unless asked for.
        seed: Of the random weights; None: the seed of the run, which began with these weights.
        device: Where the network goes.

    Raises:
        InputError: No such device, nothing there, a damaged file, weights that do not fit, videos
            in place of a network, or a backbone of the user's own that was not named.
    """
    place = known_device(device)
    file, config, weights, has_heads = _read(path)
    check_named(config.model.backbone, origin=str(file))
    check_weights(weights, origin=file)
    if has_heads and not heads:
        weights = _part(weights, _BACKBONE)
    seed = config.run.seed if seed is None else seed
    with torch.random.fork_rng(enabled=random_weights):
        if random_weights:
            torch.manual_seed(seed)
        module = create_model(config) if heads and has_heads else _create_backbone(config)
    if random_weights:
        weights_sha256 = f"random weights, seed {seed}"
    else:
        load_weights(module, with_aliases(module, weights), origin=file)
        weights_sha256 = sha256_of(file)
    if not isinstance(module, DualModel):
        module = VideoEncoder(module, config, weights_sha256=weights_sha256)
    known = None if random_weights else trained_on(file)
    return Network(module.to(place).eval(), config, weights_sha256, known)


def load(path: Path | str, *, device: str = "cpu", backbone: str | None = None) -> VideoEncoder:
    """Return a ready network with its preprocessing, in evaluation mode (`fastdual.load`).

    Args:
        path: What `fastdual pretrain`, `finetune` or `export` wrote: a run folder, whose newest
            checkpoint is taken, a checkpoint or x.safetensors; or hf://user/model, where
            `fastdual export --push` put one.
        device: Where the network goes.
        backbone: "package.module:factory", if the network was trained on a backbone of your own:
            no file can have code imported that you do not name.

    Raises:
        InputError: As `load_network`. Random weights never take the place of missing ones.
    """
    with named_backbone(backbone):
        return load_network(Path(path), heads=False, device=device).encoder


def _read(path: Path) -> tuple[Path, PretrainConfig, Mapping[str, Tensor], bool]:
    """Return the file, its config, its weights, and whether they include the heads."""
    if is_address(path):
        path = fetch(path)
    if is_index(path) or is_pack(path):
        raise InputError(f"{path}: an index or pack of videos; name the run first, then the videos")
    if path.suffix == SUFFIX:
        config, weights = read_safetensors(path)
        return path, config, weights, False
    file = find_checkpoint(path)
    with contents_of(file, "take another checkpoint, or the run's folder"):
        return file, *_read_checkpoint(file)


def _read_checkpoint(file: Path) -> tuple[PretrainConfig, Mapping[str, Tensor], bool]:
    """Return the config, the weights, and whether they include the heads."""
    state = load_checkpoint(file)
    values, weights = state["config"], state["model"]
    if state.get("task") != "finetune":
        return PretrainConfig.from_dict(values, origin=str(file)), weights, True
    values = {key: value for key, value in values.items() if _describes_network(key)}
    config = PretrainConfig.from_dict(values, origin=str(file))
    return config, _part(weights, _BACKBONE), False


def _describes_network(key: str) -> bool:
    """Whether a key of a fine-tuning config is a key of pretraining that the network needs."""
    return key == "model.backbone" or (key.startswith("clip.") and key not in FIXED_KEYS)


def _part(weights: Mapping[str, Any], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def _create_backbone(config: PretrainConfig) -> nn.Module:
    return create_backbone(config.model.backbone, clip_shape=config.clip.clip_shape)
