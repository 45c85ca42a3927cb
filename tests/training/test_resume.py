"""A run that was stopped or killed goes on to the very weights of one that never was.

Real processes, real signals, real videos; states are compared bit for bit.
"""

import re
import signal
from pathlib import Path

import pytest
import torch

from fastdual.config import PretrainConfig
from fastdual.config.recipe import to_toml
from fastdual.errors import InputError
from fastdual.run.checkpoint import find_checkpoint, list_checkpoints, load_checkpoint
from fastdual.run.folder import RunFolder
from fastdual.training.resume import ConfigRequest, resolve_finetune, resolve_pretrain
from fastdual.weights.load import load
from tests.evaluate.small import (
    small_checkpoint,
)
from tests.runs import (
    arguments,
    invoke,
    read_log,
    start,
    wait_for_steps,
    write_index,
)
from tests.training.undisturbed import (
    NUM_VIDEOS,
    SETTINGS,
    STEPS,
    assert_same_end,
    write_undisturbed,
)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_index(tmp_path_factory.mktemp("data"), count=NUM_VIDEOS)


@pytest.fixture(scope="module")
def undisturbed(index: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_undisturbed(index, tmp_path_factory.mktemp("undisturbed") / "run")


def signal_after(args: list[str], run: Path, *, steps: int, number: int) -> tuple[int, str]:
    """Start a run, send it a signal after so many steps; returns its exit code and stdout."""
    process = start(args)
    wait_for_steps(process, run, steps)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=120)
    assert "Traceback" not in stderr
    return process.returncode, stdout


def test_sigterm_saves_and_resume_goes_on_to_the_same_weights(
    index: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    args = arguments(index, run, **SETTINGS)
    code, stdout = signal_after(args, run, steps=5, number=signal.SIGTERM)
    assert code == 143
    assert "--resume" in stdout
    stopped = load_checkpoint(find_checkpoint(run))
    assert 5 <= stopped["step"] < STEPS
    assert read_log(run, "end")[-1]["signal"] == signal.SIGTERM

    refused = invoke(args)
    assert refused.exit_code == 2
    assert "add --resume" in refused.output

    # The config is the run's own: nothing but the data and the folder need be named again.
    result = invoke(["pretrain", str(index), "--run", str(run), "--resume"])
    assert result.exit_code == 0, result.output
    assert f"at step {stopped['step']}" in result.stderr
    assert_same_end(run, undisturbed)


def test_sigkill_loses_the_steps_since_the_last_checkpoint_and_a_cut_checkpoint_is_passed_over(
    index: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    args = arguments(index, run, "--resume", **SETTINGS)  # to resume what is not there is to start
    code, _ = signal_after(args, run, steps=10, number=signal.SIGKILL)
    assert code == -signal.SIGKILL
    newest, older = list_checkpoints(run / "checkpoints")[:2]
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])

    result = invoke(args)
    assert result.exit_code == 0, result.output
    assert f"warning: {newest}: damaged" in result.stderr
    assert f"continues from {older}" in result.stderr
    assert_same_end(run, undisturbed)


def test_a_finished_run_resumed_is_left_as_it_is(index: Path, undisturbed: Path) -> None:
    newest = find_checkpoint(undisturbed)
    before = newest.read_bytes()
    result = invoke(["pretrain", str(index), "--run", str(undisturbed), "--resume"])
    assert result.exit_code == 0, result.output
    assert newest.read_bytes() == before
    assert len(list_checkpoints(undisturbed / "checkpoints")) == 2


def test_resume_refuses_a_checkpoint_that_is_not_of_its_config_or_lacks_a_part(
    index: Path, tmp_path: Path
) -> None:
    """The config has been lost, or edited by hand: neither may train on with other settings."""
    run = tmp_path / "run"
    settings = {**SETTINGS, "schedule__epochs": 1, "schedule__milestones": "[]"}
    first = arguments(index, run, **settings)
    assert invoke(first).exit_code == 0
    again = ["pretrain", str(index), "--run", str(run), "--resume"]
    config, checkpoint = run / "config.toml", find_checkpoint(run)
    text, state = config.read_text(), torch.load(checkpoint, weights_only=True)

    config.write_text(re.sub(r"(?m)^learning_rate = .*$", "learning_rate = 0.5", text))
    result = invoke(again)
    assert result.exit_code == 2
    assert f"{checkpoint}: was trained with optimiser.learning_rate = 0.003" in result.stderr
    config.unlink()
    result = invoke([*first, "--resume", "--set", "run.seed=1"])
    assert result.exit_code == 2
    assert "was trained with run.seed = 0, and" in result.stderr

    config.write_text(text)
    assert invoke(again).exit_code == 0
    torch.save({key: value for key, value in state.items() if key != "order"}, checkpoint)
    result = invoke(again)
    assert result.exit_code == 2
    assert f"{checkpoint}: holds no order, so this fastdual cannot continue" in result.stderr


def test_resume_refuses_other_settings_other_data_and_no_whole_checkpoint(
    index: Path, undisturbed: Path, tmp_path: Path
) -> None:
    again = ["pretrain", str(index), "--run", str(undisturbed), "--resume"]
    result = invoke([*again, "--set", "optimiser.learning_rate=1"])
    assert result.exit_code == 2
    assert "optimiser.learning_rate is 0.003 in the run" in result.stderr
    assert invoke([*again, "--set", "run.keep_checkpoints=2"]).exit_code == 0

    other = write_index(tmp_path, count=8)
    result = invoke(["pretrain", str(other), "--run", str(undisturbed), "--resume"])
    assert result.exit_code == 2
    assert "the data are not those that the run in" in result.stderr

    for path in list_checkpoints(undisturbed / "checkpoints"):
        path.write_bytes(b"")
    result = invoke(again)
    assert result.exit_code == 2
    assert "none of its 2 checkpoints is whole" in result.stderr


def test_the_config_of_an_older_run_may_hold_a_key_that_is_retired(tmp_path: Path) -> None:
    text = to_toml(PretrainConfig().to_dict())
    assert "accumulate_chunks = 1\n" in text
    older = text.replace("accumulate_chunks = 1\n", 'accumulate_chunks = 1\nshard_state = "off"\n')
    (tmp_path / "config.toml").write_text(older)
    resolved = resolve_pretrain(RunFolder(tmp_path), ConfigRequest(resume=True))
    assert resolved.config == PretrainConfig()


def test_checkpoint_of_a_pretraining_run_is_no_run_to_resume(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[data]\nbatch_size = 4\n")
    with pytest.raises(InputError, match="holds a pretraining run"):
        resolve_finetune(RunFolder(tmp_path), ConfigRequest(resume=True), load(small_checkpoint()))
