"""The measured rates: every frame counts, and what a rate means for a run."""

from pathlib import Path

import pytest
import torch

from fastdual.doctor import rate as doctor_rate


def test_decode_rate_counts_every_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that stands at 0 for the start and then shows 2 s: one clip of 300 frames in 2 s."""
    times = iter([0.0, 0.0, 2.0, 2.0])
    monkeypatch.setattr(doctor_rate.time, "thread_time", lambda: next(times))
    checks = doctor_rate.rate_checks(tmp_path, torch.device("cpu"))
    _, detail = checks["decode rate"]()
    assert detail == "one core decodes 150 frames/s of 340x256 H.264 with PyAV"


def test_rate_is_told_as_hours_of_an_epoch() -> None:
    text = doctor_rate.describe(20.0, "pyav")
    assert text.startswith("pyav sustains 20.0 videos/s")
    assert "3.3 hours for an epoch" in text
