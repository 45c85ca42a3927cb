"""`fastdual pretext`: how well a run solves its own task on videos that it was not trained on."""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastdual.commands.shared.evaluation import (
    RecordedCommand,
    missing,
    show_and_keep,
    typed_command,
)
from fastdual.commands.shared.options import (
    embedding_options,
    json_option,
    random_weights_option,
    result_option,
)

if TYPE_CHECKING:
    from fastdual.evaluate.pretext import HeldOutMetrics

_PATH = click.Path(path_type=Path)
_MEASURES = {
    "rank_accuracy": "rank accuracy",
    "shuffled_rank_accuracy": "rank accuracy, segments moved",
    "clip_top1": "other view of the clip first",
    "same_video_recall": "other clip of the video first",
}


@click.command(cls=RecordedCommand)
@click.argument("run", type=_PATH)
@click.argument("data", type=_PATH)
@click.option("--split", default="test", show_default=True, help="Held-out, as ucf101-1/test.")
@embedding_options
@random_weights_option
@result_option
@json_option
def command(
    run: Path,
    data: Path,
    split: str,
    device: str,
    decode: Any,
    workers: int | None,
    root: Path | None,
    random_weights: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Measure the pretext task of RUN on a split of DATA that was held out: does a segment find its
    match in the shuffled clip, does a clip find the other clip of its video?

    \b
      fastdual pretext RUN DATA                   the run's last checkpoint
      fastdual pretext RUN DATA --random-weights  the same network, untrained

    The clips are drawn with a fixed seed, so that runs can be compared. An untrained network finds
    the match wherever the shuffle left the segments in place (1 in S! videos); "segments moved"
    leaves those out.
    """
    from fastdual.evaluate.embed import left_out
    from fastdual.evaluate.pretext import held_out_embeddings, held_out_loader, intervals, measure
    from fastdual.evaluate.results import make_result
    from fastdual.loaders.index import open_index
    from fastdual.training.execution import choose_device
    from fastdual.weights.load import load_network

    where = str(choose_device(device))
    network = load_network(run, device=where, random_weights=random_weights)
    index, config = open_index(data, root=root), network.config
    loader = held_out_loader(
        index, config, split=split, device=where, decode=decode, num_workers=workers
    )
    with closing(loader):
        held_out = held_out_embeddings(network.model, loader)
    metrics = measure(held_out)
    result = make_result(
        task="pretext",
        command=typed_command(),
        weights_sha256=network.weights_sha256,
        data_fingerprint=index.fingerprint,
        settings={"backbone": config.model.backbone, "frame_stride": config.clip.frame_stride},
        splits=[
            {
                "train": config.data.split or "train",
                "test": split,
                "num_test": metrics.num_videos,
                "metrics": intervals(held_out, index.groups),
                "rank_chance": metrics.rank_chance,
                "left_out": {
                    "test": missing(
                        left_out(index, index.split(split), held_out.video_ids.tolist())
                    )
                },
                "overlaps": [],
            }
        ],
    )
    text = _table(metrics, split)
    show_and_keep(result, text=text, source=run, output=output, as_json=as_json)


def _table(metrics: "HeldOutMetrics", split: str) -> str:
    chances = dict.fromkeys(("rank_accuracy", "shuffled_rank_accuracy"), metrics.rank_chance)
    lines = [f"{metrics.num_videos} videos of the split {split}, per cent"]
    lines.append(f"{'':<32}{'chance':>9}{'found':>9}")
    for name, title in _MEASURES.items():
        chance = chances.get(name, 1 / metrics.num_videos)
        found = getattr(metrics, name)
        shown = "-" if found is None else f"{100 * found:.1f}"
        lines.append(f"{title:<32}{100 * chance:>9.1f}{shown:>9}")
    return "\n".join(lines)
