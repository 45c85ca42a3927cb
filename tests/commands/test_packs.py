"""Every command that takes an index takes a pack: the same numbers come out of the same bytes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fastdual.loaders.pack import PackOptions, pack
from fastdual.run.checkpoint import load_checkpoint
from tests.evaluate.small import small_checkpoint, small_index, small_index_file
from tests.runs import QUICK, arguments, differences, invoke

EMBED = ["--clips-per-video", "1", "--workers", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The videos of the small index in shards, as they are."""
    output = tmp_path_factory.mktemp("pack") / "packed.h5"
    packed = pack(small_index(), output, PackOptions(shard_bytes=20_000, num_workers=1))
    assert packed.packed is not None and len(packed.packed.shards) > 1
    return output


def typed(*words: object) -> str:
    done = invoke([str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("command", ["retrieve", "pretext"])
def test_a_measurement_is_the_same(command: str, packed: Path, tmp_path: Path) -> None:
    options = EMBED[2:] if command == "pretext" else EMBED
    if command != "pretext":
        options = [*options, "--allow-overlap"]
    results: list[dict[str, Any]] = []
    for number, data in enumerate((small_index_file(), packed)):
        output = tmp_path / f"{number}.json"
        typed(command, small_checkpoint(), data, "-o", output, *options)
        results.append(json.loads(output.read_text()))
    of_index, of_pack = results
    assert of_pack["splits"] == of_index["splits"]
    assert of_pack["data_fingerprint"] == of_index["data_fingerprint"]


def test_features_are_the_same(packed: Path, tmp_path: Path) -> None:
    typed("embed", small_checkpoint(), packed, "-o", tmp_path / "f.h5", *EMBED)
    typed("embed", small_checkpoint(), small_index_file(), "-o", tmp_path / "g.h5", *EMBED)
    assert (tmp_path / "f.h5").read_bytes() == (tmp_path / "g.h5").read_bytes()


def test_a_run_on_a_pack_goes_on_with_its_index(packed: Path, tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    settings = {"clip__frames_per_clip": 4, "data__batch_size": 8, "schedule__epochs": 2}
    settings["run__checkpoint_every_steps"] = 3
    typed(*arguments(packed, whole, **settings))
    first, *_, last = sorted((whole / "checkpoints").iterdir())
    shutil.copytree(whole, run)
    for checkpoint in (run / "checkpoints").iterdir():
        if checkpoint.name != first.name:
            checkpoint.unlink()
    typed("pretrain", small_index_file(), "--run", run, "--resume")
    states = [load_checkpoint(folder / "checkpoints" / last.name) for folder in (whole, run)]
    assert states[0]["step"] > load_checkpoint(first)["step"] > 0
    assert differences(states[0]["model"], states[1]["model"]) == []
    for command in (("plot", run, "--data", packed), ("report", run, packed, "--allow-overlap")):
        typed(*command, *EMBED)
    assert "data:image" in (run / "report.html").read_text()


def test_finetuning_takes_a_pack(packed: Path, tmp_path: Path) -> None:
    settings = {key: value for key, value in QUICK.items() if key.startswith(("clip", "run.d"))}
    pairs = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    options = ["--epochs", "1", "--batch-size", "4", "--allow-overlap", "--device", "cpu"]
    typed("finetune", small_checkpoint(), packed, "--run", tmp_path / "run", *options, *pairs)
