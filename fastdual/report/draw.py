"""Pictures of runs and of features, as PNG files in a folder."""

from collections.abc import Sequence
from pathlib import Path

from fastdual.evaluate.embed import EmbedOptions, Progress, embed
from fastdual.evaluate.features import FeatureSet
from fastdual.evaluate.held_out import embed_held_out
from fastdual.loaders.index import VideoIndex
from fastdual.model.dual import DualModel
from fastdual.report.feature_map import feature_map
from fastdual.report.plots import draw_map, save_figure, segment_similarity, training_curves
from fastdual.report.runs import distinct_names, read_curves
from fastdual.weights.load import Network


def draw_training_curves(runs: Sequence[Path], folder: Path) -> Path:
    """Draw losses and accuracies of one run or several as `training.png` in a folder.

    Raises:
        InputError: A folder without a log.
        FailureError: The picture could not be written.
    """
    names = distinct_names(runs)
    figure = training_curves([read_curves(*run) for run in zip(runs, names, strict=True)])
    return save_figure(figure, folder / "training.png")


def draw_feature_map(features: FeatureSet, folder: Path, *, name: str) -> Path:
    """Draw principal components and t-SNE of features as `NAME-map.png`."""
    title = f"{name}: features of {len(features)} videos, {features.settings['backbone']}"
    figure = draw_map(feature_map(features), title=title)
    return save_figure(figure, folder / f"{name}-map.png")


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
    """Draw the map of all videos, and how alike segments are: `NAME-map.png`, `NAME-segments.png`.

    Args:
        network: Of a run.
        index: The videos.
        folder: Where the pictures go.
        name: What the run is called.
        split: Held-out videos for the segments; None: all. There is no picture of segments for a
            network without heads, or if no video's segments changed places.
        options: Clips and decoding.
        progress: Told of the embedding of all videos.
    """
    index.split(split)  # must be there before an hour is spent on the map
    features = embed(network, index, options=options, progress=progress)
    drawn = [draw_feature_map(features, folder, name=name)]
    if isinstance(network.model, DualModel):
        held_out = embed_held_out(network, index, split=split, options=options)
        if held_out.moved.any():
            title = f"{name}: segments of a clip and of its shuffled twin, {split or 'all videos'}"
            figure = segment_similarity(held_out.moved_similarity(), title=title)
            drawn.append(save_figure(figure, folder / f"{name}-segments.png"))
    return drawn
