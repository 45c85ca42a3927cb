"""`fastdual pretrain` as its users meet it: what it prints, what it writes, and how it refuses."""

import contextlib
import os
import re
import shlex
import subprocess
import sys
import termios
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fastdual.commands.pretrain import command
from fastdual.commands.shared.launching import LAUNCH_OPTIONS
from fastdual.config import resolve
from fastdual.config.recipe import read_toml
from fastdual.run.checkpoint import find_checkpoint, list_checkpoints, step_of
from fastdual.weights.load import load_network
from tests.runs import (
    arguments,
    assert_refused,
    invoke,
    read_log,
    start,
    wait_for_steps,
    write_index,
    write_videos,
)

NUM_VIDEOS = 8


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_index(tmp_path_factory.mktemp("data"), count=NUM_VIDEOS)


@pytest.fixture(autouse=True)
def cache_of_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_options_are_few_and_frozen() -> None:
    """Few say what is trained and what becomes of changed data; those of the launcher are apart."""
    options = [p for p in command.params if isinstance(p, click.Option)]
    flags = {name for p in options if p.name not in LAUNCH_OPTIONS for name in p.opts}
    assert flags == {
        "--run", "--recipe", "--set", "--show-config", "--resume", "--init", "--device", "--epochs",
        "--batch-size", "--seed", "--losses", "--backbone", "--root", "--split", "--verbose",
        "--allow-missing", "--accept-data-changes",
    }  # fmt: skip
    assert len(flags) <= 17
    assert {name for p in options for name in p.opts} - flags == {
        "--gpus", "--nnodes", "--node-rank", "--rdzv-endpoint", "--max-restarts",
    }  # fmt: skip
    assert all(p.help for p in options)


def test_a_run_says_what_it_does_and_leaves_what_it_promises(index: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "first"
    result = invoke(arguments(index, run, "--epochs", "2", "--seed", "5"))
    assert result.exit_code == 0, result.output
    for words in (
        "data      all 8 videos; 2 batches of 4 per epoch",
        "8 frames at stride 1, 32x32, 2 segments",
        "model     tiny",
        "compute   cpu",
        "fp32, not compiled",
        "settings  recipe paper-simclr; data.batch_size=4; ",
        "; --seed 5; ",
        "run       starts at step 0 of 6 (3 epochs)",
        "step 6/6 epoch 3.0 0:00:00 left | loss ",
        " (chance 14%) rank ",
        " clips/s, data wait ",
        f"next        fastdual report {run} {index}",
    ):
        assert words in result.stderr, words
    newest = find_checkpoint(run)
    assert result.stdout.splitlines() == [f"checkpoint  {newest}"]
    events = read_log(run, "train")
    board = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [point.step for point in board.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    shown = [point.value for point in board.Scalars("train/loss")]
    assert shown == pytest.approx([event["loss"] for event in events])
    assert [event["step"] for event in events] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "clip", "rank", "coherence", "rank_accuracy", "clip_top1"} <= set(events[0])
    (told,) = read_log(run, "decoded")
    assert (told["decoders"], told["substituted"]) == ({"pyav": 24}, {})
    network = load_network(run)
    model, config = network.model, network.config
    assert (config.run.seed, config.schedule.epochs) == (5, 3)
    assert sum(weight.numel() for weight in model.parameters()) == 967_887
    stored = resolve([("file", read_toml(run / "config.toml"))]).config
    assert stored == config
    assert "seed = 5  # --seed" in (run / "config.toml").read_text()


def test_checkpoints_of_chosen_epochs_stay(index: Path, tmp_path: Path) -> None:
    """Two steps an epoch: after 2, 4 and 6, though no others are asked for and one is kept."""
    few = {"run__checkpoint_every_steps": 100, "run__keep_checkpoints": 1}
    result = invoke(arguments(index, tmp_path / "run", run__keep_every_epochs=1, **few))
    assert result.exit_code == 0, result.output
    found = [step_of(path) for path in list_checkpoints(tmp_path / "run" / "checkpoints")]
    assert found == [6, 4, 2]


def test_settings_win_over_flags_and_flags_over_the_recipe(index: Path, tmp_path: Path) -> None:
    args = ["pretrain", str(index), "--run", str(tmp_path / "run"), "--recipe", "tiny"]
    result = invoke([*args, "--epochs", "7", "--set", "run.seed=3", "--seed", "4", "--show-config"])
    assert result.exit_code == 0, result.output
    shown = tomllib.loads(result.stdout)
    assert (shown["schedule"]["epochs"], shown["run"]["seed"]) == (7, 3)
    assert 'backbone = "tiny"  # recipe tiny' in result.stdout
    assert not (tmp_path / "run").exists()


def test_show_config_chooses_the_recipe_as_the_run_would(index: Path, tmp_path: Path) -> None:
    args = ["pretrain", str(index), "--run", str(tmp_path / "run"), "--device", "cpu"]
    result = invoke([*args, "--show-config"])
    assert result.exit_code == 0, result.output
    assert 'backbone = "tiny"  # recipe tiny' in result.stdout
    assert result.stderr.startswith("recipe    tiny: ")


def test_what_show_config_prints_is_a_recipe_for_the_same_config(tmp_path: Path) -> None:
    args = ["pretrain", "videos", "--run", str(tmp_path / "run"), "--show-config"]
    first = invoke([*args, "--recipe", "tiny", "--set", "optimiser.max_gradient_norm=2"]).stdout
    (tmp_path / "mine.toml").write_text(first)
    second = invoke([*args, "--recipe", str(tmp_path / "mine.toml")]).stdout
    assert tomllib.loads(first) == tomllib.loads(second)


def test_a_folder_is_indexed_and_its_train_split_is_taken(tmp_path: Path) -> None:
    write_videos(tmp_path / "videos" / "train" / "a", count=4)
    write_videos(tmp_path / "videos", count=6)
    table = ["path,split"] + [f"video{n:02d}.mp4,{'train' if n < 4 else 'test'}" for n in range(6)]
    (tmp_path / "videos" / "videos.csv").write_text("\n".join(table))
    run = tmp_path / "run"
    one = {"schedule__epochs": 1, "schedule__milestones": "[]"}
    result = invoke(arguments(tmp_path / "videos" / "videos.csv", run, **one))
    assert result.exit_code == 0, result.output
    assert "4 videos of the split 'train' (6 in the index); 1 batch of 4 per" in result.stderr
    more = tmp_path / "all"
    result = invoke(arguments(tmp_path / "videos", more, data__split="all", **one))
    assert result.exit_code == 0, result.output
    assert "all 10 videos; 2 batches of 4" in result.stderr


def test_a_missing_an_empty_and_an_unusable_folder_are_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert_refused(arguments(tmp_path / "absent", run), "absent", "does not exist")
    (tmp_path / "empty").mkdir()
    assert_refused(arguments(tmp_path / "empty", run), "empty")
    (tmp_path / "broken").mkdir()
    for name in ("a.mp4", "b.avi"):
        (tmp_path / "broken" / name).write_bytes(b"not a video" * 100)
    assert_refused(arguments(tmp_path / "broken", run), "broken")
    (tmp_path / "bad.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    assert_refused(arguments(tmp_path / "bad.h5", run), "bad.h5")


def test_an_index_whose_videos_moved_is_refused_until_root_names_them(tmp_path: Path) -> None:
    index = write_index(tmp_path / "data", count=4)
    (tmp_path / "data" / "videos").rename(tmp_path / "moved")
    run = tmp_path / "run"
    one = {"schedule__epochs": 1, "schedule__milestones": "[]"}
    assert_refused(arguments(index, run, **one), "--root")
    result = invoke(arguments(index, run, "--root", str(tmp_path / "moved"), **one))
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"optimiser__learning_rat": 1}, ["unknown key", "did you mean optimiser.learning_rate?"]),
        ({"clip__num_segments": 3}, ["num_segments 3", "divides"]),
        ({"data__batch_size": 9}, ["data.batch_size = 9", "8 videos", "--batch-size 8"]),
        ({"data__split": "trian"}, ["no split 'trian'"]),
        ({"model__backbone": "resnet"}, ["resnet", "tiny"]),
        ({"run__seed": 2**64}, ["run.seed = 18446744073709551616", "2^64"]),
        ({"run__device": "tpu"}, ["'tpu'", "auto, cpu, cuda"]),
        ({"run__precision": "bf16"}, ["fp32 only", "run.precision=fp32"]),
        ({"data__decode": "nvdec"}, ["nvdec", "CUDA"]),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_before_anything_is_written(
    index: Path, tmp_path: Path, settings: dict[str, Any], words: list[str]
) -> None:
    assert_refused(arguments(index, tmp_path / "run", **settings), *words)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_refused(index: Path, tmp_path: Path) -> None:
    args = ["pretrain", str(index), "--run", str(tmp_path / "run"), "--recipe", "tiny"]
    assert_refused([*args, "--device", "cuda"], "'cuda'", "0 CUDA devices", "--device cpu")


def test_a_recipe_that_is_not_there_or_not_toml_is_refused(index: Path, tmp_path: Path) -> None:
    args = ["pretrain", str(index), "--run", str(tmp_path / "run"), "--recipe"]
    assert_refused([*args, "papr"], "'papr'", "paper-simclr, tiny")
    bad = tmp_path / "bad.toml"
    bad.write_text("[data\n")
    assert_refused([*args, str(bad)], "bad.toml", "not valid TOML")


def test_on_a_terminal_the_bar_keeps_its_place_at_any_width(index: Path, tmp_path: Path) -> None:
    main, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (24, 70))
    command = [sys.executable, "-m", "fastdual", *arguments(index, tmp_path / "run")]
    environment = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen(command, stdout=terminal, stderr=terminal, env=environment) as process:
        os.close(terminal)
        shown = b""
        with contextlib.suppress(OSError):  # Linux ends a terminal's output with an error
            while part := os.read(main, 4096):
                shown += part
        os.close(main)
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    for words in ("6/6", "epoch 3.0 ", "rank ", "checkpoint  "):
        assert words in text, words


def test_what_it_says_to_type_next_can_be_pasted_whatever_the_paths_are(tmp_path: Path) -> None:
    place = tmp_path / "zwölf kleine Filme & mehr"
    place.mkdir()
    run, root = place / "der Lauf", place / "videos"
    index = write_index(place, count=4)
    one = {"schedule__epochs": 100, "schedule__milestones": "[]"}
    process = start(arguments(index, run, "--root", str(root), **one))
    wait_for_steps(process, run, 1)
    process.terminate()
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 143, stderr
    words = shlex.split(stdout.partition("continue with")[2])
    assert words == ["fastdual", "pretrain", str(index), "--run", str(run), "--resume",
                     "--root", str(root)]  # fmt: skip
    result = invoke(words[1:])
    assert result.exit_code == 0, result.output
    following = shlex.split(result.stderr.partition("\nnext")[2])
    assert following == ["fastdual", "report", str(run), str(index), "--root", str(root)]
    assert invoke(following[1:]).exit_code == 0


def test_a_run_that_names_no_recipe_gets_one_that_fits_and_says_why(
    index: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    first = ["pretrain", str(index), "--run", str(run), "--device", "cpu", "--epochs", "1"]
    result = invoke(first)
    assert result.exit_code == 0, result.output
    assert "recipe    tiny: a CPU takes days for the paper's network; --recipe" in result.stderr
    (settings,) = [line for line in result.stderr.splitlines() if line.startswith("settings")]
    assert settings.startswith("settings  recipe tiny; ") and "; --batch-size 8" in settings
    again = invoke([*first, "--resume"])
    assert again.exit_code == 0, again.output
    assert "run       continues from" in again.stderr
    assert "it is complete already, nothing is left to train" in again.stderr
