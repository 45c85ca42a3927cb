"""`fastdual pretext`: how well a run solves its own task on videos that it was not trained on."""

from pathlib import Path
from typing import Any

import click

from fastdual.commands.shared.embedding import Embedding
from fastdual.commands.shared.evaluation import (
    RecordedCommand,
    check_result,
    show_and_keep,
    typed_command,
)
from fastdual.commands.shared.held_out import HoldOutRequest, hold_out_options
from fastdual.commands.shared.options import (
    InputPath,
    embedding_options,
    json_option,
    random_weights_option,
    result_option,
)

_PATH = InputPath()


@click.command(cls=RecordedCommand)
@click.argument("run", type=_PATH)
@click.argument("data", type=_PATH)
@click.option("--split", help="Held-out; of ucf101-1, the test half [default: test].")
@hold_out_options
@embedding_options
@random_weights_option
@result_option
@json_option
def command(
    run: Path,
    data: Path,
    split: str | None,
    test_share: float,
    split_seed: int,
    output: Path | None,
    as_json: bool,
    **embedding: Any,
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
    from fastdual.evaluate.held_out import embed_held_out
    from fastdual.evaluate.pairs import num_seen
    from fastdual.evaluate.pretext import measure, pretext_entry, pretext_table
    from fastdual.evaluate.results import make_result
    from fastdual.evaluate.splits import named_splits
    from fastdual.report.table import remarks

    check_result(run, output)
    chosen = Embedding(**embedding)
    network, index = chosen.network(run), chosen.videos(data)
    if split is not None:
        (split,) = named_splits(index.splits, split, ("test",))
    request = HoldOutRequest(test_share, split_seed)
    index, (_, test), held = request.splits_of(index, None, split, kept_in=run)
    held_out = embed_held_out(network, index, split=test, options=chosen.options())
    config = network.config
    entry = pretext_entry(held_out, config, index, test)
    entry["pretrained_on"] = num_seen(network, index, test)
    result = make_result(
        task="pretext",
        command=typed_command(),
        weights_sha256=network.weights_sha256,
        data_fingerprint=index.fingerprint,
        settings={"backbone": config.model.backbone, "frame_stride": config.clip.frame_stride},
        splits=[entry if held is None else {**entry, "held_out": held.to_dict()}],
    )
    text = "\n".join([pretext_table(measure(held_out), test), *remarks("pretext", [entry])])
    show_and_keep(result, text=text, path=run, output=output, as_json=as_json)
