"""Which readings the time per epoch is estimated from."""

import pytest

from fastdual.run.progress import EpochEstimate
from fastdual.run.reading import StepReport, estimate_steps


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
    assert said[steps[1]].endswith(f"by steps {steps[0]} to {steps[1]}; 1.0 clips/s, data wait 0%")
