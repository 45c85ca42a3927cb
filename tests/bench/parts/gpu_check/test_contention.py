"""The loader beside convolutions, on a CPU: both are timed alone and together."""

from pathlib import Path

import pytest

from bench.parts.gpu_check import contention
from bench.parts.results import read_rows


def test_a_way_is_timed_alone_and_beside(
    packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contention, "available_cpus", lambda: 1)
    monkeypatch.setattr(contention, "is_installed", lambda name: name != "nvidia.dali")
    words = ["--data", str(packs), "--out", str(tmp_path / "rows"), "--device", "cpu", "--tiny"]
    words += ["--batch-size", "2", "--clips", "2", "--seconds", "0.3"]
    contention.main([*words, "--ways", "PyAV, pack, augmented on the CPU", "NVDEC, raw videos"])
    timed, missing = read_rows(tmp_path / "rows.json")
    assert missing["status"] == "not run: needs DALI"
    assert timed["status"] == "ok" and timed["steps_alone_per_second"] > 0
    assert timed["alone_videos_per_second"] > 0 and timed["beside_videos_per_second"] > 0
