"""The training loop on real batches."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastdual.errors import FailureError
from fastdual.loaders.loader import ClipBatch
from fastdual.run.progress import ProgressLine
from fastdual.run.reading import StepReport
from fastdual.training.loop import StepOutput, take_step
from fastdual.training.metrics import MetricWindow
from tests.training.keeper import ListKeeper, run


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


def test_a_run_whose_gradients_are_0_stops_and_keeps_the_plan(
    make_training: Any, tmp_path: Path
) -> None:
    training, keeper = make_training(schedule__epochs=5), ListKeeper(tmp_path)
    compute = training.compute

    def vanish(batch: ClipBatch) -> StepOutput:
        output = compute(batch)
        # Of steps 2 and 3, read together, one has a gradient.
        return replace(output, loss=output.loss * (0.0 if training.step in (2, 4) else 1.0))

    training.compute = vanish
    every = (
        r"gradient of (\d+) of \1 weights was exactly 0 since the last reading.* run.compile=off"
    )
    with pytest.raises(FailureError, match=rf"step 4: the {every}") as caught:
        run(training, keeper, checkpoint_every_steps=100)
    assert [report.step for report in keeper.reports] == [1, 2, 4]
    assert str(tmp_path / "plan-step-00000004.npz") in str(caught.value)


def test_gradients_that_reach_the_heads_alone_stop_a_run(
    make_training: Any, tmp_path: Path
) -> None:
    """So did torch 2.11 with compiled batch norm: the norm over all weights is not 0."""
    training, keeper = make_training(schedule__epochs=5), ListKeeper(tmp_path)
    lost = list(training.model.get_submodule("backbone").parameters())
    for weight in lost:
        weight.register_hook(torch.zeros_like)
    all_weights = len(list(training.model.parameters()))
    words = f"the gradient of {len(lost)} of {all_weights} weights was exactly 0 since the start"
    with pytest.raises(FailureError, match=f"step 4: {words}"):
        run(training, keeper)
    assert [report.step for report in keeper.reports] == [1, 2, 3, 4]
    assert keeper.saved_steps == [3]


def test_a_network_that_needs_a_step_to_pass_gradients_on_is_trained(
    make_training: Any, tmp_path: Path
) -> None:
    """Residual branches often start at zero."""
    training, keeper = make_training(schedule__epochs=5), ListKeeper(tmp_path)
    for weight in training.model.get_submodule("backbone").parameters():
        weight.register_hook(lambda grad: grad * (training.step > 0))
    assert run(training, keeper)


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
    said = [
        "estimate  4.0 s per epoch, 8.0 s to the end, by steps 5 to 20; 8.0 clips/s, data wait 0%"
    ]
    assert {step: lines for step, lines in told.items() if lines} == {20: said}
