"""A short soak, and how a long one is judged: bench.soak itself runs for as long as one likes."""

from pathlib import Path

from bench import soak
from bench.parts.soak import report as soak_report


def test_loading_survives_corrupt_files_and_workers_and_storage_that_fail(
    tmp_path: Path,
) -> None:
    report = soak.soak(tmp_path, minutes=0.3)
    assert report.problems == []
    assert not report.memory_judged  # the whole of it is warm-up
    assert len(report.quarantined) == soak.NUM_VIDEOS // soak.ONE_BAD_IN
    assert sum(report.attacks.values()) >= 3
    assert report.batches >= soak.NUM_VIDEOS // 8  # an epoch at least: every bad file was met


def test_a_soak_of_so_many_batches_reports_their_slope(tmp_path: Path) -> None:
    report = soak.soak(tmp_path, batches=12, tiny=True, attacks=False, num_workers=1)
    assert report.problems == [] and report.batches == 12 and not report.attacks
    assert report.peak_mib > 50 and report.workers_peak_mib > 20


def test_wrong_quarantine_is_a_problem(tmp_path: Path) -> None:
    report = soak_report.Report()
    soak.judge_quarantine(report, tmp_path / "none", [], {"a.mp4"})
    assert len(report.problems) == 2
