"""A short soak, and how a long one is judged: bench.soak itself runs for as long as one likes."""

from pathlib import Path

import numpy as np

from bench import soak
from bench.parts.soak import report as soak_report


def test_loading_survives_corrupt_files_and_killed_workers(tmp_path: Path) -> None:
    report = soak.soak(tmp_path, minutes=0.3)
    assert report.problems == []
    assert not report.memory_judged  # the whole of it is warm-up
    assert len(report.quarantined) == soak.NUM_VIDEOS // soak.ONE_BAD_IN
    assert report.kills >= 3
    assert report.batches >= soak.NUM_VIDEOS // 8  # an epoch at least: every bad file was met


def test_a_soak_of_so_many_batches_reports_their_slope(tmp_path: Path) -> None:
    report = soak.soak(tmp_path, batches=12, tiny=True, kills=False, num_workers=1)
    assert report.problems == [] and report.batches == 12 and report.kills == 0
    assert report.peak_mib > 50 and report.workers_peak_mib > 20


def judge(
    mib: np.ndarray,  # type: ignore[type-arg]
    *,
    seconds: float,
    batch_mib: float = 1.0,
    workers: np.ndarray | None = None,  # type: ignore[type-arg]
    kills: int = 0,
) -> soak_report.Report:
    report, count = soak_report.Report(kills=kills), len(mib)
    times, flat = np.linspace(0, seconds, count).tolist(), np.full(count, 80.0)
    of_workers = (flat if workers is None else workers).tolist()
    samples = soak_report.Samples(times, list(range(1, count + 1)), mib.tolist(), of_workers)
    soak_report.judge_memory(report, samples, batch_mib)
    return report


def test_a_leak_is_a_problem_in_a_run_that_is_long_enough() -> None:
    leak = np.linspace(500, 590, 601)
    report = judge(leak, seconds=600)
    assert report.problems == ["memory grew by 30 MiB"]  # from the middle third to the last
    assert abs(report.slope_mib_per_minute - 9) < 0.01
    assert abs(report.slope_kib_per_batch - 90 / 600 * 1024) < 0.1
    assert judge(leak, seconds=599).problems == []  # too short
    assert judge(np.linspace(500, 590, 2000), seconds=60).problems == ["memory grew by 30 MiB"]
    assert judge(leak, seconds=600, batch_mib=77).problems == []  # less than what is under way


def test_a_leak_of_the_workers_is_a_problem_where_they_live_on() -> None:
    flat, leak = np.full(601, 500.0), np.linspace(80, 170, 601)
    report = judge(flat, seconds=600, workers=leak)
    assert report.problems == ["memory of the workers grew by 30 MiB"]
    assert abs(report.workers_slope_kib_per_batch - 90 / 600 * 1024) < 0.1
    assert judge(flat, seconds=600, workers=leak, kills=1).problems == []
    assert judge(flat, seconds=599, workers=leak).problems == []


def test_warming_up_and_batches_under_way_are_no_leak() -> None:
    batches = 77.0 * np.random.default_rng(0).integers(0, 5, 900)
    warming = np.minimum(np.arange(900), 290)
    report = judge(500 + warming + batches, seconds=1800, batch_mib=77)
    assert report.memory_judged and report.problems == []


def test_wrong_quarantine_is_a_problem(tmp_path: Path) -> None:
    report = soak_report.Report()
    soak.judge_quarantine(report, tmp_path / "none", [], {"a.mp4"})
    assert len(report.problems) == 2
