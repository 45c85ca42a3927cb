"""Half a minute of the soak: the whole of it runs for as long as one likes with bench.soak."""

from pathlib import Path

from bench import soak


def test_loading_survives_corrupt_files_and_killed_workers(tmp_path: Path) -> None:
    report = soak.soak(0.3, tmp_path)
    assert report.problems == []
    assert len(report.quarantined) == soak.NUM_VIDEOS // soak.ONE_BAD_IN
    assert report.kills >= 3
    assert report.batches >= soak.NUM_VIDEOS // 8  # an epoch at least: every bad file was met


def test_growth_and_wrong_quarantine_are_problems(tmp_path: Path) -> None:
    report = soak.Report()
    soak._judge_memory(report, [(float(second), 500.0 + second) for second in range(400)])
    assert report.problems == ["memory grew by 200 MiB"]
    assert abs(report.slope_mib_per_minute - 60) < 0.1
    report = soak.Report()
    soak._judge_quarantine(report, tmp_path / "none", soak.Warnings(), {"a.mp4"})
    assert len(report.problems) == 2
