"""The last screen tells numbers against aims, and names what was not run."""

from pathlib import Path

import pytest

from bench.parts.gpu_check.jobs import STAGES
from bench.parts.gpu_check.screen import screen
from bench.parts.results import Row, write_rows

MACHINE = {"device": "NVIDIA H200", "driver": "580", "torch": "2.11", "commit": "abc", "date": "d"}


def shown(stage: str, folder: Path, **tables: list[Row]) -> str:
    for name, rows in tables.items():
        write_rows(rows, folder / f"{name}_cuda")
    endings = [
        {"job": "one", "outcome": "ok", "seconds": 12.0, "note": ""},
        {"job": "two", "outcome": "not run", "note": "needs DALI"},
    ]
    return screen(stage, endings, folder, MACHINE)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_without_rows_says_so(stage: str, tmp_path: Path) -> None:
    text = shown(stage, tmp_path)
    assert "no rows" in text and "needs DALI" in text and "device NVIDIA H200, driver 580" in text


def test_kernels(tmp_path: Path) -> None:
    def loss(contestant: str, milliseconds: float, rows: int = 16384) -> Row:
        row = {"loss": "nt_xent", "contestant": contestant, "rows": rows, "mode": "both"}
        return row | {"dtype": "bfloat16", "median_ms": milliseconds, "beside_ms": 10.0}

    def test(name: str, outcome: str, note: str = "") -> Row:
        return {"test": f"tests/a.py::{name}", "outcome": outcome, "note": note}

    tile = {"kernel": "forward", "dtype": "bfloat16", "rows": 128, "dim": 64, "fastest": True}
    text = shown(
        "kernels",
        tmp_path,
        losses=[
            *(loss(name, ms) for name, ms in
              (("eager", 60.0), ("torch.compile", 18.0), ("fastdual", 10.0))),
            loss("fastdual", 1.0, rows=128),
        ],
        tests=[test("test_a", "passed"), test("test_b", "failed", "E  wrong"),
               *(test(f"test_{n}", "skipped", "needs DALI") for n in range(9))],
        tiles=[tile | {"times_chosen": 1.25, "tile": "64x64"}],
    )  # fmt: skip
    assert "nt_xent              10.000 ms, 6.00x eager (aim 5x: met), 1.80x torch.compile" in text
    assert "(aim 2x: MISSED)" in text
    assert "tests: 1 passed, 1 failed, 9 skipped" in text
    assert "FAILED tests/a.py::test_b: E  wrong" in text
    assert "not run (needs DALI): test_0, test_1, test_2, test_3, test_4, test_5 and 3 more" in text
    assert "64x64 is 1.25x the chosen one" in text


def test_step(tmp_path: Path) -> None:
    def step(contestant: str, milliseconds: float, **more: object) -> Row:
        row = {"contestant": contestant, "videos": 64, "status": "ok", "step_ms": milliseconds}
        row |= {"clips_per_second": 256e3 / milliseconds, "utilisation": 0.3, "peak_mib": 2048.0}
        return row | {"beside": "ours", "beside_ms": 100.0} | more

    wrong = {"status": "disagrees", "max_error": "2.0e-01"}
    rows = [step("ours", 100.0), step("paper", 350.0), step("ours, padded to 8", 80.0)]
    text = shown("step", tmp_path, train=[*rows, step("eager", 120.0, **wrong)])
    assert "ours, 64 videos: 100.0 ms, 2560 clips/s" in text and "(aim 2500: met)" in text
    assert "ours is 3.50x as fast (aim 3: met)" in text
    assert "padded to 8, 64 videos: 80.0 ms" in text and "1.250x ours" in text
    assert "eager, 64 videos: disagrees, off by 2.0e-01" in text


def test_decode(tmp_path: Path) -> None:
    def video(verdict: str, difference: float) -> Row:
        row = {"video": "a.mp4", "kind": "h264 960x540", "decoder": "nvdec"}
        return row | {"verdict": verdict, "difference": difference}

    def rate(lanes: int, videos: float) -> Row:
        row = {"data": "raw", "how": f"{lanes} lanes of 8 threads", "status": "ok"}
        return row | {"videos_per_second": videos}

    text = shown(
        "decode", tmp_path,
        canary=[video("same", 0.5), video("is shown as the frame after it", 4.25),
                video("left to PyAV", 0.0) | {"decoder": "pyav", "kind": "h264 10 bit"}],
        lanes=[rate(1, 300.0), rate(2, 700.0), rate(4, 0) | {"status": "failed: out of memory"}],
    )  # fmt: skip
    assert "canary: 1 of 2 videos show what PyAV shows" in text and "decoded by nvdec 2" in text
    assert "left to PyAV: 1, of the kinds h264 10 bit" in text
    assert "a.mp4 (h264 960x540): is shown as the frame after it, off by 4.25" in text
    assert "raw: 700.0 videos/s with 2 lanes of 8 threads (a step asks for 625: met)" in text
    assert "raw with 4 lanes of 8 threads: failed: out of memory" in text


def test_contention(tmp_path: Path) -> None:
    rates = {"alone_videos_per_second": 900.0, "beside_videos_per_second": 400.0, "slowdown": 1.25}
    text = shown(
        "contention", tmp_path,
        contention=[{"loader": "NVDEC, pack"} | rates,
                    {"loader": "PyAV, pack", "status": "not run: needs DALI"}],
        pack_train=[{"real_data_wait_share": 0.05}],
    )  # fmt: skip
    assert "NVDEC, pack: 900.0 videos/s alone, 400.0 beside convolutions" in text
    assert "(a step asks for 625: MISSED), which take 1.25x as long" in text
    assert "PyAV, pack: not run: needs DALI" in text
    assert "5.0% of the time waiting for data (aim: below 2%: MISSED)" in text


def test_learn(tmp_path: Path) -> None:
    rows = [
        {"step": 10 * n, "loss": 6.0 - n / 10, "rank_accuracy": 0.5 - n / 100} for n in range(20)
    ]
    text = shown("learn", tmp_path, learn=rows)
    assert "190 steps; means of the first and the last 2 readings" in text
    assert "loss 5.950 -> 4.150 (aim: falls: met)" in text
    assert "rank accuracy 0.495 -> 0.315 (aim: rises: MISSED)" in text
