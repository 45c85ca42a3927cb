"""Ways on: a run made longer, one that begins with given weights, a warm-up that follows."""

from pathlib import Path

import pytest
import torch

from fastdual.config.recipe import recipe_names
from fastdual.run.checkpoint import find_checkpoint, load_checkpoint
from fastdual.run.folder import RunFolder
from fastdual.training.resume import ConfigRequest, resolve_pretrain
from tests.runs import arguments, assert_refused, differences, invoke, read_log, write_index

SHORT = {"schedule__epochs": 1, "schedule__milestones": "[]"}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_index(tmp_path_factory.mktemp("data"), count=8)


@pytest.fixture(scope="module")
def short(index: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch, two steps."""
    run = tmp_path_factory.mktemp("short") / "run"
    done = invoke(arguments(index, run, **SHORT))
    assert done.exit_code == 0, done.output
    return run


def test_a_complete_run_goes_on_to_where_a_longer_one_would_have_come(
    index: Path, tmp_path: Path
) -> None:
    long, run = tmp_path / "long", tmp_path / "run"
    assert invoke(arguments(index, long, **{**SHORT, "schedule__epochs": 3})).exit_code == 0
    assert invoke(arguments(index, run, **SHORT)).exit_code == 0
    again = ["pretrain", str(index), "--run", str(run), "--resume"]
    done = invoke([*again, "--epochs", "3"])
    assert done.exit_code == 0, done.output
    assert "schedule  3 epochs in place of 1; learning rate 0.003 from here" in done.stderr
    ends = [load_checkpoint(find_checkpoint(folder)) for folder in (long, run)]
    assert differences(*ends) == []
    assert [event["step"] for event in read_log(run, "train")] == [1, 2, 3, 4, 5, 6]
    # The run has that length from now on, and cannot be made shorter than what it has done.
    done = invoke(again)
    assert done.exit_code == 0, done.output
    assert load_checkpoint(find_checkpoint(run))["step"] == 6
    assert_refused([*again, "--epochs", "2"], "the run in", "has done 3 already")


@pytest.mark.parametrize("form", ["run", "export", "foreign"])
def test_a_run_begins_with_given_weights(
    form: str, index: Path, short: Path, tmp_path: Path
) -> None:
    given = load_checkpoint(find_checkpoint(short))["model"]
    source = {"run": short, "export": tmp_path / "x.safetensors", "foreign": tmp_path / "x.pth"}[
        form
    ]
    if form == "export":
        assert invoke(["export", str(short), "-o", str(source)]).exit_code == 0
    if form == "foreign":  # as the paper's code in MoCo's form names them
        names = {"clip_head.0": "encoder_q.2", "clip_head.2": "encoder_q.4"}
        names |= {"backbone": "encoder_q.0", "segment_head": "series_proj_head"}
        state = {}
        for key, value in given.items():
            start = next(name for name in names if key.startswith(f"{name}."))
            is_convolution = start.startswith("clip_head") and key.endswith("weight")
            shaped = value[..., None, None, None] if is_convolution else value
            state[f"module.{names[start]}{key.removeprefix(start)}"] = shaped
        torch.save({"state_dict": state}, source)
    run = tmp_path / "run"
    # The rate is too small to move a weight: the end shows the beginning.
    still = {**SHORT, "optimiser__learning_rate": 1e-38, "optimiser__weight_decay": 0}
    args = arguments(index, run, "--init", str(source), "--seed", "5", **still)
    done = invoke(args)
    assert done.exit_code == 0, done.output
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("init ")]
    heads = "no head taken" if form == "export" else "clip head and segment head taken"
    assert heads in line
    end = load_checkpoint(find_checkpoint(run))
    for name, value in given.items():
        if name.startswith("backbone.") and "running" not in name and "batches" not in name:
            assert torch.equal(end["model"][name], value), name
        elif not name.startswith("backbone."):
            assert torch.equal(end["model"][name], value) == (form != "export"), name
    assert len(end["config"]["model.init"]) == 64
    # To go on, the file is not needed; another one would not be what the run began with.
    assert invoke(["pretrain", str(index), "--run", str(run), "--resume"]).exit_code == 0
    other = tmp_path / "other.pth"
    torch.save(given, other)
    assert_refused([*args, "--resume", "--init", str(other)], "model.init is", "keeps its settings")


def test_weights_that_do_not_fit_are_refused_before_there_is_a_run(
    index: Path, short: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    args = arguments(index, run, "--init", str(short), **SHORT, model__backbone="r3d")
    assert_refused(args, "step-00000002.pt")
    assert_refused(arguments(index, run, "--set", "model.init=x", **SHORT), "only --init")
    assert_refused(arguments(index, run, "--init", str(tmp_path / "no"), **SHORT), "no such run")


@pytest.mark.parametrize("name", [name for name in recipe_names() if "finetune" not in name])
@pytest.mark.parametrize("epochs", [1, 2])
def test_every_recipe_takes_any_number_of_epochs(name: str, epochs: int, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    whole = resolve_pretrain(folder, ConfigRequest(recipe=name)).config.schedule
    flag = ConfigRequest(recipe=name, flags={"--epochs": ("schedule.epochs", epochs)})
    setting = ConfigRequest(recipe=name, settings=[f"schedule.epochs = {epochs}"])
    for request in (flag, setting):
        schedule = resolve_pretrain(folder, request).config.schedule
        assert schedule.epochs == epochs
        share = whole.warmup_epochs / whole.epochs
        fits = whole.warmup_epochs < epochs
        wanted = whole.warmup_epochs if fits else share * epochs
        assert schedule.warmup_epochs == pytest.approx(wanted)
