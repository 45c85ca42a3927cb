"""The training loop on real batches."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fastdual.config.sections import PretrainConfig, resolve
from fastdual.distributed.world import World
from fastdual.errors import FailureError
from fastdual.loaders.index import VideoIndex, load_index
from fastdual.loaders.loader import ClipBatch
from fastdual.loaders.plan import ClipPlan, draw_plan
from fastdual.model.dual import create_model
from fastdual.run.folder import RunFolder
from fastdual.run.progress import EpochEstimate, ProgressLine
from fastdual.run.reading import StepReport, estimate_steps
from fastdual.training.collapse import CollapseWatch, embedding_spread
from fastdual.training.execution import choose_execution
from fastdual.training.loop import StepOutput, Training, take_step, train
from fastdual.training.metrics import MetricWindow
from fastdual.training.pretrain import Pretraining
from fastdual.training.schedule import create_optimiser
from fastdual.training.start import create_loader, create_training
from fastdual.training.step import PretrainStep, create_objective
from tests.runs import QUICK, arguments, invoke, write_index

NUM_VIDEOS = 10


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> VideoIndex:
    return load_index(write_index(tmp_path_factory.mktemp("data"), count=NUM_VIDEOS))


@pytest.fixture
def make_training(index: VideoIndex, tmp_path: Path) -> Iterator[Any]:
    made: list[Training] = []

    def make(**settings: Any) -> Training:
        values = QUICK | {key.replace("__", "."): value for key, value in settings.items()}
        config: PretrainConfig = resolve([], [f"{k}={v}" for k, v in values.items()]).config
        execution = choose_execution(config.run)
        torch.manual_seed(config.run.seed)
        folder = RunFolder(tmp_path / "run")
        loader = create_loader(index, None, config, execution, World(), folder)
        made.append(create_training(Pretraining(config), create_model(config), loader, execution))
        return made[-1]

    yield make
    for training in made:
        training.loader.close()


class ListKeeper:
    """Keeps everything in lists."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reports: list[StepReport] = []
        self.saved_steps: list[int] = []

    def meet(self) -> None:
        pass

    def report(self, report: StepReport) -> None:
        self.reports.append(report)

    def save(self, training: Training) -> None:
        self.saved_steps.append(training.step)

    def wait_saved(self) -> None:
        pass

    def save_plan(self, plan: ClipPlan, *, step: int) -> Path:
        return RunFolder(self.folder).save_plan(plan, step=step)


def run(training: Training, keeper: ListKeeper, **changes: Any) -> bool:
    pace = {"log_every_steps": 2, "checkpoint_every_steps": 3, "should_stop": lambda: False}
    return train(training, keeper, **(pace | changes))


def test_reports_and_checkpoints_come_at_their_steps_and_at_the_end(
    make_training: Any, tmp_path: Path
) -> None:
    keeper = ListKeeper(tmp_path)
    training = make_training(schedule__epochs=4)  # 10 videos in batches of 4: 2 steps an epoch
    assert run(training, keeper)
    assert training.total_steps == training.step == 8
    # At even ones, with every checkpoint, and at the first for the estimate.
    assert [report.step for report in keeper.reports] == [1, 2, 3, 4, 6, 8]
    assert keeper.saved_steps == [3, 6, 8]
    assert [r.epoch for r in keeper.reports] == [0.5, 1.0, 1.5, 2.0, 3.0, 4.0]
    for report in keeper.reports:
        assert 0 <= report.data_wait_share <= 1
        assert report.clips_per_second > 0
        assert all(math.isfinite(value) for value in report.metrics.values())
    assert [r.learning_rate for r in keeper.reports] == pytest.approx([3e-3] * 4 + [3e-4] * 2)


def test_asked_to_stop_it_saves_after_the_step_and_says_that_it_is_not_complete(
    make_training: Any, tmp_path: Path
) -> None:
    keeper = ListKeeper(tmp_path)
    training = make_training(schedule__epochs=4)
    assert not run(training, keeper, should_stop=lambda: training.step == 5)
    assert training.step == keeper.saved_steps[-1] == keeper.reports[-1].step == 5
    assert (training.loader.epoch, training.loader.step) == (2, 1)


def test_a_batch_is_computed_once_with_all_its_views_in_one_forward(make_training: Any) -> None:
    training = make_training()
    shapes = []
    training.model.register_forward_hook(lambda _, args, out: shapes.append(args[0].shape))
    take_step(training, next(iter(training.loader)))
    assert shapes == [(4 * 4, 3, 8, 32, 32)]


def test_a_step_takes_the_rate_of_its_own_number(make_training: Any) -> None:
    training = make_training()
    training.rate = lambda step: 0.001 * (step + 1)
    batch = next(iter(training.loader))
    for training.step in (0, 4):
        take_step(training, batch)
        rates = [group["lr"] for group in training.optimiser.param_groups]
        assert rates == [0.001 * (training.step + 1)]


def test_every_view_meets_the_loss_in_its_own_place(make_training: Any) -> None:
    training = make_training()
    training.model.eval()  # so that views can be embedded one by one
    batch = next(iter(training.loader))
    with torch.no_grad():
        views = [training.model(batch.clips[:, view]) for view in range(4)]
        clip, segments = (torch.stack(parts, dim=1) for parts in zip(*views, strict=True))
        expected = training.objective(clip, segments, batch.permutation, batch.video_ids)
        output = training.compute(batch)
    for name, value in expected.metrics.items():
        torch.testing.assert_close(output.metrics[name], value, rtol=1e-4, atol=1e-5)


def test_random_numbers_go_on_where_the_state_was_taken(make_training: Any) -> None:
    training = make_training()
    state = training.state_dict()
    drawn = torch.rand(5)
    torch.rand(100)
    training.load_state_dict(state)
    assert torch.equal(torch.rand(5), drawn)


def test_the_network_learns_the_pretext_task(make_training: Any, tmp_path: Path) -> None:
    keeper = ListKeeper(tmp_path)
    settings = {"optimiser__name": "adamw", "optimiser__learning_rate": 0.002}
    run(make_training(schedule__epochs=20, **settings), keeper, log_every_steps=10)
    first, last = keeper.reports[0].metrics, keeper.reports[-1].metrics
    assert last["loss"] < 0.85 * first["loss"]


def attract_only(training: Training, batch: ClipBatch) -> StepOutput:
    """Positives without negatives: all clips are drawn to one point, the way to collapse."""
    clip, _ = training.model(batch.clips[:, :2].flatten(0, 1))
    point = torch.nn.functional.normalize(torch.ones_like(clip), dim=-1)
    loss = (1 - (clip * point).sum(dim=-1)).mean()
    return StepOutput(loss, {"spread": embedding_spread(clip[::2])})


def test_a_network_that_collapses_is_noticed_and_one_that_learns_is_not(
    make_training: Any, tmp_path: Path
) -> None:
    for collapsing, epochs in ((False, 8), (True, 30)):
        training, keeper = make_training(schedule__epochs=epochs), ListKeeper(tmp_path)
        training.rate = lambda _: 0.05
        if collapsing:
            training.compute = partial(attract_only, training)
        run(training, keeper)
        watch = CollapseWatch(0.07, steps_per_epoch=len(training.loader))
        readings = [(r.metrics["spread"], r.step) for r in keeper.reports]
        warnings = [watch.look(spread, step=step) for spread, step in readings]
        assert len([text for text in warnings if text]) == int(collapsing), readings


def test_a_collapse_is_told_once_and_again_only_after_a_recovery() -> None:
    watch = CollapseWatch(0.1, steps_per_epoch=2)
    spreads = [0.001, 0.001, 0.009, 0.5, 0.009, 0.008, 0.001, 0.02, 0.001, 0.0]
    told = [n for n, spread in enumerate(spreads) if watch.look(spread, step=n + 1)]
    assert told == [5, 9]


def test_gradients_are_scaled_to_the_largest_norm_allowed(make_training: Any) -> None:
    training = make_training(
        optimiser__max_gradient_norm=0.5, optimiser__momentum=0, optimiser__weight_decay=0
    )
    before = [weight.detach().clone() for weight in training.model.parameters()]
    output = take_step(training, next(iter(training.loader)))
    assert output.metrics["gradient_norm"] > 0.5
    moved = [w.detach() - b for w, b in zip(training.model.parameters(), before, strict=True)]
    norm = torch.nn.utils.get_total_norm(moved).item()
    assert norm == pytest.approx(0.5 * 0.003, rel=1e-3)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_plan(
    make_training: Any, tmp_path: Path
) -> None:
    training, keeper = make_training(schedule__epochs=5), ListKeeper(tmp_path)
    compute, seen = training.compute, []

    def explode(batch: ClipBatch) -> StepOutput:
        seen.append(batch.plan)
        output = compute(batch)
        return replace(output, loss=output.loss / (0.0 if len(seen) == 5 else 1.0))

    training.compute = explode
    with pytest.raises(FailureError, match="step 4: loss is not finite") as caught:
        run(training, keeper, log_every_steps=7)
    assert keeper.saved_steps == [3]
    file = tmp_path / "plan-step-00000004.npz"
    assert str(file) in str(caught.value)
    with np.load(file) as arrays:
        for name, value in vars(seen[4]).items():
            assert np.array_equal(arrays[name], value), name


def test_who_hangs_is_missed_before_the_device_is_waited_for(
    make_training: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = ListKeeper(tmp_path)
    monkeypatch.setattr(keeper, "meet", lambda: _lose("rank 1 of 2 did not answer"))
    monkeypatch.setattr(MetricWindow, "read", lambda _: pytest.fail("waits for the device"))
    with pytest.raises(FailureError, match="rank 1 of 2"):
        run(make_training(), keeper)


def _lose(message: str) -> None:
    raise FailureError(message)


class RefuseToWait(TorchDispatchMode):
    """Fails on every operation that brings a value from the device to the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        assert not any(word in name for word in ("_local_scalar_dense", "nonzero", "equal.")), name
        return func(*args, **(kwargs or {}))


def test_a_step_never_reads_a_value_back(make_training: Any) -> None:
    # Without ranking: on a CPU, where it costs nothing, that checks the values of the permutation.
    training = make_training(optimiser__max_gradient_norm=1.0, loss__objective="clip")
    batch = next(iter(training.loader))
    with RefuseToWait():
        output = take_step(training, batch)
        with pytest.raises(AssertionError, match="_local_scalar_dense"):
            float(output.loss.detach())


@pytest.mark.parametrize(
    "settings",
    [
        {"optimiser.name": "sgd"},
        {"optimiser.name": "adamw", "model.framework": "moco", "moco.queue_size": 10},
        {"optimiser.name": "lars", "optimiser.max_gradient_norm": 1.0},
        {"optimiser.accumulate_chunks": 2, "model.channel_multiple": 8},
    ],
    ids=lambda settings: ", ".join(map(str, settings.values())),
)
def test_a_step_needs_no_value_of_anything_it_computes(settings: dict[str, Any]) -> None:
    """On torch's device without memory, where there are shapes but nothing that could be read."""
    values = {**QUICK, **settings}
    config: PretrainConfig = resolve([], [f"{k}={v}" for k, v in values.items()]).config
    with torch.device("meta"):
        model = create_model(config)
        objective = create_objective(config, model)
        ids = torch.arange(4)
        plan = draw_plan(config.clip, seed=0, epoch=0, videos=np.arange(4), num_frames=[9] * 4)
        batch = ClipBatch(torch.empty(4, 4, 3, 8, 32, 32), torch.empty(4, 2).long(), ids, ids, plan)
    training = Training(
        model=model,
        objective=objective,
        optimiser=create_optimiser(
            torch.nn.ModuleList([model, objective]), config.optimiser, fused=False
        ),
        loader=None,  # type: ignore[arg-type]
        compute=PretrainStep(
            model,
            objective,
            choose_execution(config.run),
            num_chunks=config.optimiser.accumulate_chunks,
        ),
        rate=lambda _: 0.1,
        total_steps=9,
        max_gradient_norm=config.optimiser.max_gradient_norm,
    )
    output = take_step(training, batch)
    with pytest.raises(RuntimeError, match="meta"):
        float(output.loss.detach())


@pytest.mark.gpu
def test_a_step_on_a_gpu_never_waits_for_it(make_training: Any) -> None:
    training = make_training(run__device="cuda", run__compile="off", model__backbone="r2plus1d")
    batches = iter(training.loader)
    take_step(training, next(batches))
    batch = next(batches)
    torch.cuda.set_sync_debug_mode("error")
    try:
        take_step(training, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def assert_compiled_steps_are_those_of_torch(
    make_training: Any, mode: str, **settings: Any
) -> None:
    def losses(mode: str) -> list[float]:
        more = {"run__compile": mode, "optimiser__learning_rate": 1e-5}
        training = make_training(**settings, **more)
        batches = list(training.loader)[:2]
        return [float(take_step(training, batch).loss.detach()) for batch in batches]

    torch._dynamo.reset()
    # The paper's temperatures magnify the rounding of one step in the loss of the next.
    assert losses(mode) == pytest.approx(losses("off"), rel=1e-3)


def test_compiled_steps_are_those_of_torch(make_training: Any) -> None:
    """On a CPU `cuda-graphs` is the common mode; C++ is compiled once for this test."""
    assert_compiled_steps_are_those_of_torch(make_training, "cuda-graphs")


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["on", "max-autotune", "cuda-graphs"])
@pytest.mark.parametrize("framework", ["simclr", "moco"])
def test_compiled_steps_on_a_gpu_are_those_of_torch(
    make_training: Any, mode: str, framework: str
) -> None:
    """In two chunks, so that graphs run several times a step."""
    gpu = {"run__device": "cuda", "run__precision": "fp32", "model__framework": framework}
    chunks = {"optimiser__accumulate_chunks": 2, "moco__queue_size": 16}
    assert_compiled_steps_are_those_of_torch(make_training, mode, **gpu, **chunks)


def test_log_lines_beyond_the_resumed_step_are_dropped(tmp_path: Path) -> None:
    from fastdual.run.log import RunLog

    lines = [json.dumps({"event": "train", "step": step}) for step in (1, 2, 3)]
    # What a kill cut, and what a crash of the machine may leave.
    cut = b'\n\xff\x00\n{"event": "tr'
    (tmp_path / "log.jsonl").write_bytes("\n".join(lines).encode() + cut)
    log = RunLog(tmp_path, start_step=2)
    log.event("start", step=2, loss=math.nan)
    log.close()
    kept = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(e["event"], e["step"]) for e in kept] == [("train", 1), ("train", 2), ("start", 2)]
    assert kept[-1]["loss"] is None


def test_a_dumb_terminal_is_shown_lines_while_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as if this were a terminal
    monkeypatch.setenv("TERM", "dumb")
    report = StepReport(
        step=3, total_steps=100, epoch=0.5, learning_rate=0.1, metrics={"loss": 1.0},
        clips_per_second=1.0, data_wait_share=0.0, seconds_left=0.0,
    )  # fmt: skip
    with ProgressLine(total_steps=100, start_step=0) as line:
        line.show(report)
        assert capsys.readouterr().err.startswith("step 3/100 epoch 0.5")


@pytest.mark.parametrize("log_every_steps", [1, 7, 10, 50])
def test_an_epoch_is_estimated_after_20_steps_whatever_is_logged(
    make_training: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    log_every_steps: int,
) -> None:
    """The clock stands but for the steps; the first five compile, and take 100 s each."""
    training, keeper = make_training(schedule__epochs=12), ListKeeper(tmp_path)
    now = [0.0]
    monkeypatch.setattr("fastdual.run.progress.time.perf_counter", lambda: now[0])
    weight = next(training.model.parameters())

    def slowly(batch: ClipBatch) -> StepOutput:
        now[0] += 100.0 if training.step < 5 else 2.0
        return StepOutput(weight.square().mean(), {})

    training.compute = slowly
    told = {}
    with ProgressLine(total_steps=training.total_steps, start_step=0) as line:

        def show(report: StepReport) -> None:
            line.show(report)
            told[report.step] = [w for w in capsys.readouterr().err.splitlines() if "estimate" in w]

        monkeypatch.setattr(keeper, "report", show)
        pace = {"log_every_steps": log_every_steps, "checkpoint_every_steps": 24}
        assert run(training, keeper, **pace)
    # 2 steps an epoch, 24 in all.
    said = ["estimate  4.0 s per epoch, 8.0 s to the end, by steps 5 to 20"]
    assert {step: lines for step, lines in told.items() if lines} == {20: said}


@pytest.mark.parametrize(
    ("start_step", "total_steps", "steps"),
    [
        (0, 1000, (5, 20)),
        (0, 21, (5, 20)),
        (100, 1000, (105, 120)),
        (0, 12, (1, 6)),
        (95, 100, (95, 97)),
        (99, 100, (99, 100)),
    ],
)
def test_a_run_of_fewer_than_20_steps_is_estimated_from_its_first_half(
    start_step: int, total_steps: int, steps: tuple[int, int]
) -> None:
    def report(step: int) -> StepReport:
        return StepReport(
            step=step, total_steps=total_steps, epoch=step / 4, learning_rate=0.1, metrics={},
            clips_per_second=1.0, data_wait_share=0.0, seconds_left=0.0,
        )  # fmt: skip

    assert estimate_steps(start_step, total_steps) == steps
    estimate = EpochEstimate(start_step=start_step, total_steps=total_steps)
    told = {step: estimate.look(report(step)) for step in range(start_step + 1, total_steps + 1)}
    said = {step: line for step, line in told.items() if line}
    assert list(said) == [steps[1]]
    assert said[steps[1]].endswith(f"by steps {steps[0]} to {steps[1]}")


def test_wandb_is_refused_where_it_is_not_and_gets_the_numbers_where_it_is(
    index: VideoIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = tmp_path / "run"
    settings = {"run__wandb_project": "videos", "schedule__epochs": 1, "schedule__milestones": "[]"}
    result = invoke(arguments(index.root.parent / "videos.h5", run, **settings))
    if find_spec("wandb") is None:
        assert result.exit_code == 2
        assert "run.wandb_project = 'videos': wandb is not installed; pip" in result.stderr
        assert not run.exists()
        return
    assert result.exit_code == 0, result.output
    (stored,) = run.glob("wandb/offline-run-*/run-*.wandb")
    assert b"train/loss" in stored.read_bytes()
