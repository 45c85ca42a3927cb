"""What a run shows of its readings."""

from typing import Any

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


# As wide as a run of a thousand epochs with all three losses gets.
METRICS = {
    "loss": 10.8134, "clip": 3.79, "coherence": 3.615, "rank": 3.409, "clip_top1": 0.38,
    "clip_top5": 0.7, "coherence_top1": 0.04, "rank_accuracy": 0.54, "spread": 0.291,
}  # fmt: skip
CHANCES = {"clip_top1": 1 / 31, "coherence_top1": 1 / 31, "rank_accuracy": 1 / 3}


def shown(capsys: pytest.CaptureFixture[str], **options: Any) -> str:
    report = StepReport(
        step=99990, total_steps=100000, epoch=999.9, learning_rate=0.1, metrics=METRICS,
        clips_per_second=1234.5, data_wait_share=0.25, seconds_left=36000.0,
    )  # fmt: skip
    with ProgressLine(total_steps=100000, start_step=0, chances=CHANCES, **options) as line:
        line.show(report)
    return capsys.readouterr().err.splitlines()[-1]


def test_a_line_fits_and_an_accuracy_stands_beside_its_chance(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = shown(capsys)
    assert line.endswith("| loss 10.81 clip 38% (chance 3%) rank 54% (chance 33%)")
    assert len(line) <= 100


def test_verbose_shows_every_metric(capsys: pytest.CaptureFixture[str]) -> None:
    line = shown(capsys, verbose=True)
    assert "1234.5 clips/s, data wait 25%" in line and "spread 0.291" in line
    assert "coherence top1 4% (chance 3.2%)" in line and "clip_top5" not in line
