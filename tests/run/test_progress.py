"""What a run shows of its readings."""

import pytest

from fastdual.run.progress import ProgressLine
from fastdual.run.reading import StepReport


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
