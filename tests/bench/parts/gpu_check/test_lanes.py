"""Lanes on a CPU, where DALI decodes MJPEG: all of them load, and one that fails is told."""

from pathlib import Path

from bench.parts.gpu_check import lanes
from bench.parts.results import read_rows


def test_every_combination_is_a_row(packs: Path, tmp_path: Path) -> None:
    words = ["--data", str(packs), "--out", str(tmp_path / "lanes"), "--packs", "mjpeg_128x176"]
    words += ["--device", "cpu", "--decode", "dali-cpu", "--batch-size", "2", "--seconds", "0.2"]
    words += ["--lanes", "2", "--threads", "1"]
    lanes.main(words)
    (row,) = read_rows(tmp_path / "lanes.json")
    assert row["status"] == "ok" and row["videos_per_second"] > 0
    assert (row["lanes"], row["graph_threads"], row["how"]) == (2, 1, "2 lanes of 1 threads")
    assert "dali-cpu" in row["decoded_by"]
    lanes.main(words)
    assert read_rows(tmp_path / "lanes.json") == [row]


def test_a_lane_that_fails_is_told(packs: Path, tmp_path: Path) -> None:
    """DALI decodes no H.264 on a CPU, and a decoder that is named takes no other's place."""
    words = ["--data", str(packs), "--out", str(tmp_path / "lanes"), "--packs", "h264_128x176"]
    words += ["--device", "cpu", "--decode", "dali-cpu", "--lanes", "1", "--threads", "3"]
    lanes.main(words)
    (row,) = read_rows(tmp_path / "lanes.json")
    assert row["status"].startswith("failed: ") and "h264" in row["status"]
