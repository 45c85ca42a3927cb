"""All pictures of some runs, into a folder."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fastdual.evaluate.embed import EmbedOptions, Progress, embed
from fastdual.evaluate.features import FeatureSet
from fastdual.evaluate.pretext import held_out_embeddings, held_out_loader
from fastdual.loaders.batch.decoder import Requested
from fastdual.loaders.index import VideoIndex
from fastdual.model.dual import DualModel
from fastdual.report.plots import feature_map, save_figure, segment_similarity, training_curves
from fastdual.report.projection import project
from fastdual.report.runs import distinct_names, read_curves
from fastdual.weights.load import Network


def draw_training_curves(runs: Sequence[Path], folder: Path) -> Path:
    """Losses and accuracies of one run or several, into `training.png`.

    Raises:
        InputError: a folder without a log.
        FailureError: the picture could not be written.
    """
    names = distinct_names(runs)
    figure = training_curves([read_curves(*run) for run in zip(runs, names, strict=True)])
    return _save(figure, folder / "training.png")


def draw_feature_map(features: FeatureSet, folder: Path, *, name: str) -> Path:
    """Principal components and t-SNE of features, into `NAME-map.png`."""
    title = f"{name}: features of {len(features)} videos, {features.settings['backbone']}"
    figure = feature_map(features, project(features.features), title=title)
    return _save(figure, folder / f"{name}-map.png")


def draw_segment_similarity(
    network: Network,
    index: VideoIndex,
    folder: Path,
    *,
    name: str,
    split: str | None,
    decode: Requested = "auto",
    num_workers: int | None = None,
) -> Path | None:
    """Similarities of segments of a clip and its shuffled twin, into `NAME-segments.png`.

    Only videos whose segments did change places are shown: the others are no test. None where a
    clip has one segment, or no video's segments moved.
    """
    if not isinstance(network.model, DualModel):
        return None  # an exported backbone has no head for segments
    device = str(next(network.model.parameters()).device)
    with held_out_loader(
        index, network.config, split=split, device=device, decode=decode, num_workers=num_workers
    ) as loader:
        held_out = held_out_embeddings(network.model, loader)
    similarity = held_out.segment_similarity()[held_out.moved].double().numpy()
    if not len(similarity):
        return None
    title = f"{name}: segments of a clip and of its shuffled twin, {split or 'all videos'}"
    figure = segment_similarity(similarity.astype(np.float64), title=title)
    return _save(figure, folder / f"{name}-segments.png")


def draw_network(
    network: Network,
    index: VideoIndex,
    folder: Path,
    *,
    name: str,
    split: str | None,
    options: EmbedOptions,
    progress: Progress | None = None,
) -> list[Path]:
    """The map of features of all videos and the segment similarities of a held-out split."""
    index.split(split)  # must be there before an hour is spent on the map
    features = embed(network, index, options=options, progress=progress)
    segments = draw_segment_similarity(
        network,
        index,
        folder,
        name=name,
        split=split,
        decode=options.decode,
        num_workers=options.num_workers,
    )
    drawn = [draw_feature_map(features, folder, name=name), segments]
    return [path for path in drawn if path is not None]


def _save(figure: Figure, path: Path) -> Path:
    save_figure(figure, path)
    return path
