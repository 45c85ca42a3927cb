"""`fastdual pretext`: how well a run solves its own task on videos that it was not trained on."""

import json
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from fastdual.commands.evaluation import embedding_options

_PATH = click.Path(path_type=Path)
_MEASURES = {
    "rank_accuracy": "rank accuracy",
    "shuffled_rank_accuracy": "rank accuracy, segments moved",
    "clip_top1": "other view of the clip first",
    "same_video_recall": "other clip of the video first",
}


@click.command()
@click.argument("run", type=_PATH)
@click.argument("data", type=_PATH)
@click.option("--split", default="test", show_default=True, help="Held-out videos.")
@embedding_options
@click.option("--random-weights", is_flag=True, help="Untrained weights: a baseline.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    run: Path,
    data: Path,
    split: str,
    device: str,
    decode: Any,
    workers: int | None,
    root: Path | None,
    random_weights: bool,
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
    from fastdual.evaluate.embed import load_network
    from fastdual.evaluate.pretext import held_out_loader, held_out_metrics
    from fastdual.execution import choose_device
    from fastdual.loaders.index import open_index

    where = str(choose_device(device))
    network = load_network(run, device=where, random_weights=random_weights)
    loader = held_out_loader(
        open_index(data, root=root),
        network.config,
        split=split,
        device=where,
        decode=decode,
        num_workers=workers,
    )
    with closing(loader):
        metrics = asdict(held_out_metrics(network.model, loader))
    if as_json:
        click.echo(json.dumps(metrics, indent=2))
        return
    chances = dict.fromkeys(("rank_accuracy", "shuffled_rank_accuracy"), metrics["rank_chance"])
    click.echo(f"{metrics['num_videos']} videos of the split {split}, per cent")
    click.echo(f"{'':<32}{'chance':>9}{'found':>9}")
    for name, title in _MEASURES.items():
        chance = chances.get(name, 1 / metrics["num_videos"])
        found = metrics[name]
        shown = "-" if found is None else f"{100 * found:.1f}"
        click.echo(f"{title:<32}{100 * chance:>9.1f}{shown:>9}")
