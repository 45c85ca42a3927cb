"""How the memory of a soak is judged."""

import numpy as np

from bench.parts.soak import report as soak_report


def judge(
    mib: np.ndarray,  # type: ignore[type-arg]
    *,
    seconds: float,
    batch_mib: float = 1.0,
    workers: np.ndarray | None = None,  # type: ignore[type-arg]
    attacks: dict[str, int] | None = None,
) -> soak_report.Report:
    report, count = soak_report.Report(attacks=attacks or {}), len(mib)
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
    assert judge(flat, seconds=600, workers=leak, attacks={"killed": 1}).problems == []
    assert judge(flat, seconds=599, workers=leak).problems == []


def test_warming_up_and_batches_under_way_are_no_leak() -> None:
    batches = 77.0 * np.random.default_rng(0).integers(0, 5, 900)
    warming = np.minimum(np.arange(900), 290)
    report = judge(500 + warming + batches, seconds=1800, batch_mib=77)
    assert report.memory_judged and report.problems == []
