"""`fastdual pretrain --gpus N`: elastic's launcher with real processes, signals and ports."""

import json
import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest
import torch
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousConnectionError

from fastdual.commands.pretrain import command as pretrain_command
from fastdual.commands.shared.launching import arguments_of
from fastdual.distributed.causes import root_cause, why_apart
from fastdual.distributed.launch import _remove_folders_of_the_dead
from fastdual.distributed.plan import LaunchPlan
from tests.conftest import PROJECT
from tests.distributed.processes import SETTINGS, TWO, one_error
from tests.runs import (
    arguments,
    invoke,
    start,
    write_index,
)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_index(tmp_path_factory.mktemp("data"), count=8)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_more_gpus_than_there_are_are_refused(index: Path, tmp_path: Path) -> None:
    args = ["pretrain", str(index), "--run", str(tmp_path / "run"), "--gpus", "2"]
    result = invoke(args)
    assert result.exit_code == 2
    assert "--gpus 2: this machine has no GPU; add --device cpu" in one_error(result.stderr)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--gpus", "3", "--device", "cpu"], "batch size 4 does not divide over 3 processes"),
        (["--gpus", "0", "--device", "cpu"], "must be at least 1"),
        ([*TWO, "--nnodes", "2"], "--nnodes 2 needs --rdzv-endpoint HOST:PORT"),
        ([*TWO, "--nnodes", "2", "--node-rank", "2"], "--node-rank 2: must lie in 0..1"),
        ([*TWO, "--rdzv-endpoint", f"here:{'9' * 5000}"], "must be HOST:PORT"),
        ([*TWO, "--rdzv-endpoint", "here"], "'here': must be HOST:PORT"),
        ([*TWO, "--nnodes", "2", "--rdzv-endpoint", ":29400"], "':29400': must be HOST:PORT"),
        (["--max-restarts", "1"], "need --gpus N"),
        ([*TWO, "--nnodes", "1:2"], "Invalid value for '--nnodes': '1:2' is not a valid integer"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_starts(
    index: Path, tmp_path: Path, options: list[str], words: str
) -> None:
    result = invoke(arguments(index, tmp_path / "run", *options))
    assert result.exit_code == 2, result.output
    assert words in one_error(result.stderr)
    assert not (tmp_path / "run").exists()


def test_gpus_under_torchrun_is_refused(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    result = invoke(arguments(index, tmp_path / "run", *TWO))
    assert result.exit_code == 2
    assert "leave --gpus out" in one_error(result.stderr)


def test_a_port_in_use_and_a_machine_that_never_comes_are_told_in_time(
    index: Path, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        two = [*TWO, "--nnodes", "2", "--rdzv-endpoint", f"127.0.0.1:{port}"]
        args = arguments(index, tmp_path / "run", *two, data__batch_size=8)
        result = invoke(args)
        assert result.exit_code == 2
        assert f"port {port} cannot be used" in one_error(result.stderr)
    began = time.monotonic()
    args = arguments(index, tmp_path / "run", *two, data__batch_size=8, run__timeout_seconds=3)
    elsewhere = [word.replace(f":{port}", ":9") for word in args]  # where nobody listens
    processes = start(args), start([*elsewhere, "--node-rank", "1"])
    for process, why in zip(
        processes, ("", "nobody listens there: Connection refused"), strict=True
    ):
        stdout, stderr = process.communicate(timeout=100)
        assert process.returncode == 1, (stdout, stderr)
        assert "the machines did not meet at 127.0.0.1:" in one_error(stderr)
        assert why in one_error(stderr)
    assert time.monotonic() - began < 60


def test_a_mistake_of_all_processes_is_one_line_and_is_not_made_again(
    index: Path, tmp_path: Path
) -> None:
    """Found late, by the processes: the launcher sees neither precision nor checkpoints."""
    run = tmp_path / "run"
    restarts = ("--max-restarts", "3")
    process = start(arguments(index, run, *TWO, *restarts, run__precision="bf16"))
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "fp32 only" in one_error(stderr)

    assert (
        invoke(arguments(index, run, schedule__epochs=1, schedule__milestones="[]")).exit_code == 0
    )
    (newest,) = (run / "checkpoints").iterdir()
    newest.write_bytes(b"")
    resume = ["pretrain", str(index), "--run", str(run), "--resume", *TWO, *restarts]
    process = start(resume)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "none of its 1 checkpoints is whole" in one_error(stderr)
    assert stderr.count("falling back to the one before") == 1  # read once, by one attempt


def test_a_mistake_on_one_machine_ends_the_other_with_its_reason(
    index: Path, tmp_path: Path
) -> None:
    """Node 0 waits for a rank that never joins, and its restart for a machine that has left."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ("--gpus", "1", "--device", "cpu", "--nnodes", "2", "--max-restarts", "1")
    options += ("--rdzv-endpoint", f"127.0.0.1:{port}")
    settings = {**SETTINGS, "run__timeout_seconds": 10}
    machines = [
        start(arguments(index, tmp_path / "run", *options, "--node-rank", node, **settings, **more))
        for node, more in (("0", {}), ("1", {"run__precision": "bf16"}))
    ]
    errors = [machine.communicate(timeout=120)[1] for machine in machines]
    assert [machine.returncode for machine in machines] == [1, 2], errors
    assert re.search(r"rank [01] of 2 did not come", one_error(errors[0]))
    assert "fp32 only" in one_error(errors[1])


def test_every_process_is_given_all_options_but_those_of_the_launch() -> None:
    given = ["--run", "run", "--seed", "0", "--resume", "--set", "a.b=1", "--set", "c.d=2"]
    launching = ["--gpus", "2", "--max-restarts", "0"]
    context = pretrain_command.make_context("pretrain", ["data", *given, *launching])
    name, *words = arguments_of(context)
    assert (name, words[-2:]) == ("pretrain", ["--", "data"])
    assert sorted(words[:-2]) == sorted(given)


def test_a_signal_that_memory_does_not_explain_is_named_alone(tmp_path: Path) -> None:
    for number, why in (
        (signal.SIGABRT, ";"),
        (signal.SIGKILL, " (the kernel does so when memory"),
    ):
        failure = ProcessFailure(local_rank=1, pid=7, exitcode=-number, error_file="")
        error = root_cause({1: failure}, tmp_path)
        assert str(error).startswith(f"rank 1 was ended by {number.name}{why}")


def test_a_kill_of_our_own_is_not_the_cause(tmp_path: Path) -> None:
    """Elastic ends who does not end by itself; the cause is why the others gave it up."""
    lost = {"message": "rank 1 of 2 did not answer", "code": 1, "time": 1.0, "lost": [1]}
    killed = ProcessFailure(local_rank=1, pid=7, exitcode=-signal.SIGKILL, error_file="")
    ended = ProcessFailure(local_rank=0, pid=6, exitcode=1, error_file="")
    failures = {1: killed, 0: ended}
    for silent, text in ((True, "rank 1 of 2 did not answer"), (False, "rank 1 was ended by SIGK")):
        (tmp_path / "error-0.json").write_text(json.dumps(lost | {"silent": silent}))
        assert str(root_cause(failures, tmp_path)).startswith(text)
    assert str(root_cause(failures, tmp_path, {1})).startswith("rank 1 had been stopped")


def test_machines_that_had_met_are_not_told_to_meet(tmp_path: Path) -> None:
    plan = LaunchPlan(processes=1, nodes=2, node_rank=1, endpoint="node0:29400")
    lost = RendezvousConnectionError("the connection to the C10d store has failed")
    assert "did not meet" in str(why_apart(lost, plan, tmp_path))
    (tmp_path / "process-1.json").write_text('{"pid": 7}')
    text = str(why_apart(lost, plan, tmp_path))
    assert "node0:29400 is gone (the connection to the C10d store has failed)" in text
    assert "continue from the last checkpoint with --resume" in text


def test_folders_that_killed_launchers_left_are_removed(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    left = tmp_path / "tmp" / "fastdual-launch-4194305-x"  # a number that Linux never gives
    others = tmp_path / "tmp" / f"fastdual-launch-{os.getpid()}-x"
    for folder in (left, others):
        folder.mkdir(parents=True)
    _remove_folders_of_the_dead()
    assert list((tmp_path / "tmp").iterdir()) == [others]


def test_torchrun_understands_the_documented_command() -> None:
    """Before the `--` it would take `--run` for an abbreviation of two options of its own."""
    from torch.distributed.run import parse_args

    text = (PROJECT / "docs" / "training.md").read_text()
    commands = [line for line in text.splitlines() if line.startswith("torchrun ")]
    assert commands
    for command in commands:
        parsed = parse_args(command.split()[1:])
        assert (parsed.module, parsed.training_script) == (True, "fastdual")
        assert parsed.training_script_args[0] == "pretrain"
        assert "--run" in parsed.training_script_args
