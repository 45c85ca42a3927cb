"""`fastdual replay`: the step at which a run stopped being finite, taken again."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from tests.runs import arguments, invoke, write_index

NUM_VIDEOS = 8


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_index(tmp_path_factory.mktemp("data"), count=NUM_VIDEOS)


@pytest.fixture(scope="module")
def failed(index: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A run whose rate is so high that it stops being finite after some steps."""
    run = tmp_path_factory.mktemp("failed") / "run"
    settings = {
        "schedule__epochs": 40,
        "schedule__milestones": "[]",
        "optimiser__learning_rate": 1e25,
        "optimiser__weight_decay": 0,
        "run__checkpoint_every_steps": 1,
        "run__keep_checkpoints": 1,
    }
    return run, invoke(arguments(index, run, **settings))


def test_the_command_that_the_run_names_tells_where_it_is_not_finite(
    index: Path, failed: tuple[Path, Result]
) -> None:
    run, result = failed
    assert result.exit_code == 1
    (plan,) = run.glob("plan-step-*.npz")
    assert f"fastdual replay {plan} DATA" in result.stderr
    before = sorted(p.name for p in run.rglob("*"))
    replayed = invoke(["replay", str(plan), str(index)])
    assert replayed.exit_code == 0, replayed.output
    lines = dict(line.split(maxsplit=1) for line in replayed.stdout.splitlines())
    step = int(plan.stem.rsplit("-", 1)[1])
    newest = next(iter((run / "checkpoints").glob("step-*.pt")), None)
    assert lines["step"] == f"{step}, from {newest.name if newest else 'the start'}"
    assert "video0" in lines["videos"]
    assert lines["clips"].startswith("finite, from -")
    assert "not finite" in lines["layers"] + lines["gradients"] + lines["weights"]
    assert "loss " in lines["losses"]
    assert sorted(p.name for p in run.rglob("*")) == before


def test_a_finite_step_is_said_to_be_finite(index: Path, tmp_path: Path) -> None:
    """The plan of a step that went well, saved by hand, is found well again."""
    from fastdual.loaders.index import load_index
    from fastdual.loaders.order import EpochOrder
    from fastdual.loaders.plan import ClipSpec, draw_plan
    from fastdual.run.folder import RunFolder

    run = tmp_path / "run"
    assert invoke(arguments(index, run, run__checkpoint_every_steps=2)).exit_code == 0
    opened = load_index(index)
    videos = EpochOrder(NUM_VIDEOS, global_batch_size=4, seed=0).batch(1, 1)
    spec = ClipSpec(
        frames_per_clip=8, frame_stride=1, resize_height=36, resize_width=48, crop_size=32
    )
    plan = draw_plan(spec, seed=0, epoch=1, videos=videos, num_frames=opened.num_frames[videos])
    file = RunFolder(run).save_plan(plan, step=3)
    result = invoke(["replay", str(index), str(file)])
    assert result.exit_code == 0, result.output
    for words in (
        "step       3, from step-00000002.pt",
        "weights    all finite",
        "layers     all finite",
        "gradients  all finite",
    ):
        assert words in result.stdout

    other = RunFolder(run).save_plan(plan, step=4)
    result = invoke(["replay", str(index), str(other)])
    assert result.exit_code == 1
    assert "are not those of the step's batch" in result.stderr


def test_what_is_no_plan_of_a_run_is_refused(index: Path, tmp_path: Path) -> None:
    files = [tmp_path / "plan-step-00000001.npz", tmp_path / "x.npz", tmp_path / "absent.npz"]
    files[0].write_bytes(b"no zip")
    np.savez(files[1], videos=np.arange(3))
    for file, words in zip(files, ["damaged", "no plan of a run", "no plan of a run"], strict=True):
        result = invoke(["replay", str(index), str(file)])
        assert result.exit_code == 2
        assert words in result.stderr


def test_a_small_file_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    index = write_index(tmp_path / "data", count=1)
    plan = tmp_path / "plan-step-00000003.npz"
    np.savez_compressed(plan, frames=np.zeros(1 << 22, np.int64))
    done = invoke(["replay", str(index), str(plan)])
    assert done.exit_code == 2, done.output
    assert "damaged, or no plan of a run" in done.stderr
