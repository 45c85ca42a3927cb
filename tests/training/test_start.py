"""How runs start, fail and are refused: memory, folders, checkpoints, disks, videos."""

import json
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from fastdual.config import PretrainConfig, resolve
from fastdual.config.recipe import read_recipe, to_toml
from fastdual.distributed.team import Team
from fastdual.distributed.world import World
from fastdual.loaders.index import load_index
from fastdual.model.batch_norm import SyncedBatchNorm3d
from fastdual.model.dual import create_model
from fastdual.run.checkpoint import find_checkpoint, list_checkpoints, save_checkpoint
from fastdual.run.folder import RunFolder
from fastdual.training.execution import choose_execution
from fastdual.training.pretrain import Pretraining
from fastdual.training.start import create_training
from tests.loaders.clips import encode
from tests.runs import (
    QUICK,
    arguments,
    assert_refused,
    invoke,
    read_log,
    start,
    wait_for_steps,
    write_index,
    write_videos,
)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_index(tmp_path_factory.mktemp("data"), count=8)


@pytest.fixture(autouse=True)
def cache_of_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("setting", "kind"), [("synchronised", SyncedBatchNorm3d), ("local", torch.nn.BatchNorm3d)]
)
def test_batch_norm_of_several_processes_is_synchronised_unless_it_is_to_be_local(
    setting: str, kind: type
) -> None:
    values = QUICK | {"run.batch_norm": setting}
    config = resolve([], [f"{key}={value}" for key, value in values.items()]).config
    team = Team(World(size=2), None, 60)
    loader: Any = range(4)  # all that is asked is how many batches it has
    execution = choose_execution(config.run)
    training = create_training(Pretraining(config), create_model(config), loader, execution, team)
    norms = [m for m in training.model.modules() if isinstance(m, torch.nn.BatchNorm3d)]
    assert norms and all(type(norm) is kind for norm in norms)


def test_memory_that_runs_out_is_told_and_leaves_no_run(index: Path, tmp_path: Path) -> None:
    # More than a process can address, so that it fails however freely the system promises memory.
    queue = {"model__framework": "moco", "moco__queue_size": 2**31 - 1, "model__clip_dim": 65_536}
    args = arguments(index, tmp_path / "run", **queue)
    assert_refused(args, "cpu: out of memory (tried to allocate", "smaller --batch-size", code=1)
    assert not (tmp_path / "run").exists()


def test_a_run_folder_that_is_a_file_busy_or_not_to_be_written_is_refused(
    index: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    assert_refused(arguments(index, tmp_path / "file"), "is a file")
    # Not even root writes there.
    refused = "could not be written: No such file or directory; name another place"
    assert_refused(arguments(index, Path("/proc/run")), refused, code=1)
    settings = [f"{key}={value}" for key, value in QUICK.items()]
    config = resolve([read_recipe("paper-simclr")], settings)
    with RunFolder(tmp_path / "run").claimed(to_toml(config.config.to_dict())):
        args = arguments(index, tmp_path / "run", "--resume")
        assert_refused(args, "another process is training")


def test_a_checkpoint_of_another_model_is_refused(index: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    args = arguments(index, run, "--resume")
    assert invoke(args).exit_code == 0
    newest = find_checkpoint(run)
    state = torch.load(newest, weights_only=True)
    other: PretrainConfig = resolve([], ["model.backbone=tiny", "model.clip_dim=9"]).config
    save_checkpoint(newest, {**state, "model": create_model(other).state_dict()})
    assert_refused(args, "weights of another model: clip_head.2.weight is [9, 128] there")


def test_a_checkpoint_of_another_torch_is_gone_on_with_and_said(
    index: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    args = arguments(index, run, "--resume")
    assert invoke(args).exit_code == 0
    newest = find_checkpoint(run)
    state = torch.load(newest, weights_only=True)
    save_checkpoint(newest, {**state, "versions": {**state["versions"], "torch": "1.0"}})
    result = invoke(args)
    assert result.exit_code == 0
    assert "was written under torch '1.0'" in result.stderr


def test_a_full_disk_ends_the_run_and_leaves_whole_checkpoints_alone(
    index: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    args = arguments(index, run, "--resume", run__checkpoint_every_steps=1, schedule__epochs=200)
    process = start(args)
    wait_for_steps(process, run, 1)
    process.terminate()
    process.communicate(timeout=120)
    kept = {path: path.read_bytes() for path in list_checkpoints(run / "checkpoints")}

    process = start(args)
    # Less than a checkpoint, more than everything else that a run writes.
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4 << 20, 4 << 20))
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 1, stderr
    reason = "the checkpoint could not be written: File too large; earlier ones are untouched"
    assert reason in stderr
    assert "Traceback" not in stderr
    assert read_log(run, "failed")[0]["reason"] in stderr
    left = {p: p.read_bytes() for p in (run / "checkpoints").iterdir()}
    assert left == kept


def test_a_loss_that_is_not_finite_is_a_failure_with_a_remedy(index: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = invoke(arguments(index, run, optimiser__learning_rate=1e38))
    assert result.exit_code == 1
    assert "is not finite" in result.stderr
    assert "optimiser.learning_rate" in result.stderr
    assert len(list(run.glob("plan-step-*.npz"))) == 1
    assert "is not finite" in json.loads((run / "log.jsonl").read_text().splitlines()[-1])["reason"]
    assert " failed " in invoke(["runs", str(run)]).stdout
    assert list_checkpoints(run / "checkpoints") == []


def test_a_video_that_breaks_during_the_run_is_named_and_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = write_index(tmp_path / "data", count=8)
    victim = load_index(index).path(3)
    victim.write_bytes(bytes(victim.stat().st_size))
    run = tmp_path / "run"
    result = invoke(arguments(index, run))
    assert result.exit_code == 0, result.output
    assert str(victim) in caplog.text
    assert victim.name in (run / "quarantine.jsonl").read_text()


def test_a_video_of_one_frame_trains_like_any_other(tmp_path: Path) -> None:

    encode(tmp_path / "videos" / "one.mp4", 1)
    write_videos(tmp_path / "videos", count=3)
    one = {"schedule__epochs": 1, "schedule__milestones": "[]"}
    result = invoke(arguments(tmp_path / "videos", tmp_path / "run", **one))
    assert result.exit_code == 0, result.output
