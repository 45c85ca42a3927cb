"""`fastdual pretext` as it is typed: the table, JSON, the untrained baseline, and mistakes."""

import json
from contextlib import closing
from dataclasses import asdict

from click.testing import CliRunner, Result

from fastdual.cli import cli
from fastdual.evaluate.embed import load_network
from fastdual.evaluate.pretext import held_out_loader, held_out_metrics
from tests.evaluate.small import small_checkpoint, small_index, small_index_file

QUICK = ["--workers", "1", "--device", "cpu"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["pretext", *map(str, arguments), *QUICK])


def test_json_is_the_measurement_of_the_held_out_split() -> None:
    done = run(small_checkpoint(), small_index_file(), "--json")
    assert done.exit_code == 0, done.output
    network = load_network(small_checkpoint())
    loader = held_out_loader(small_index(), network.config, split="test", num_workers=1)
    with closing(loader):
        assert json.loads(done.stdout) == asdict(held_out_metrics(network.model, loader))


def test_table_and_untrained_baseline() -> None:
    done = run(small_checkpoint(), small_index_file(), "--random-weights")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == "8 videos of the split test, per cent"
    chance, found = lines[2].removeprefix("rank accuracy").split()
    assert chance == "33.3" and 0 <= float(found) <= 100
    assert lines[4].split()[-2] == "12.5"


def test_unknown_split_is_named() -> None:
    done = run(small_checkpoint(), small_index_file(), "--split", "validation")
    assert done.exit_code == 2
    assert "validation" in done.output and "Traceback" not in done.output
