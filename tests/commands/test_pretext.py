"""`fastdual pretext` as it is typed: the table, JSON, the untrained baseline, and mistakes."""

import json
from pathlib import Path

from click.testing import CliRunner, Result

from fastdual.cli import cli
from fastdual.evaluate.embed import EmbedOptions
from fastdual.evaluate.held_out import embed_held_out
from fastdual.evaluate.pretext import measure
from fastdual.evaluate.results import read_result
from fastdual.weights.load import load_network
from tests.evaluate.small import small_checkpoint, small_index, small_index_file

QUICK = ["--workers", "1", "--device", "cpu"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["pretext", *map(str, arguments), *QUICK])


def test_result_is_the_measurement_of_the_held_out_split(tmp_path: Path) -> None:
    output = tmp_path / "r.json"
    done = run(small_checkpoint(), small_index_file(), "--json", "-o", output)
    assert done.exit_code == 0, done.output
    result = read_result(output)
    assert json.loads(done.stdout) == result
    network = load_network(small_checkpoint())
    options = EmbedOptions(num_workers=1)
    metrics = measure(embed_held_out(network, small_index(), split="test", options=options))
    (split,) = result["splits"]
    assert split["num_test"] == metrics.num_videos == 8
    assert split["left_out"] == {"test": []}
    for name, metric in split["metrics"].items():
        assert metric["value"] == getattr(metrics, name)
        assert metric["low"] <= metric["value"] <= metric["high"]
    assert split["metrics"].keys() >= {"rank_accuracy", "clip_top1", "same_video_recall"}
    assert result["checkpoint"] == network.weights_sha256
    assert result["data_fingerprint"] == small_index().fingerprint
    assert result["command"].startswith("fastdual pretext ")
    table = CliRunner().invoke(cli, ["table", str(output)])
    assert table.exit_code == 0, table.output
    assert (
        "| rank accuracy | rank, segments moved | other view first | other clip first |"
        in table.stdout
    )


def test_table_and_untrained_baseline() -> None:
    done = run(small_checkpoint(), small_index_file(), "--random-weights")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == "8 videos of the split test, in %"
    chance, found = lines[2].removeprefix("rank accuracy").split()
    assert chance == "33.3" and 0 <= float(found) <= 100
    assert lines[4].split()[-2] == "12.5"


def test_unknown_split_is_named() -> None:
    done = run(small_checkpoint(), small_index_file(), "--split", "validation")
    assert done.exit_code == 2
    assert "validation" in done.output and "Traceback" not in done.output
