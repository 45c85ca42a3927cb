"""bench.method at its smallest."""

import json
from pathlib import Path

import pytest
import torch

from bench import method
from bench.parts.method.run import BASELINES, CONTESTANTS
from bench.parts.method.summary import MEASURES
from bench.parts.method.tables import FULL, PLAIN
from tests.evaluate.small import small_index_file

SMALL = ["--seeds", "1", "--steps", "4", "--clips-per-video", "2"]
for _setting in ("data.batch_size=8", "data.num_workers=1", "clip.crop_size=32"):
    SMALL += ["--set", _setting]


def test_every_contestant_is_measured_once_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m"
    arguments = ["--data", f"small={small_index_file()}", *SMALL, "--work", str(tmp_path / "w")]
    method.main([*arguments, "--out", str(out)])
    rows = json.loads(out.with_suffix(".json").read_text())
    assert sorted(row["contestant"] for row in rows) == sorted(CONTESTANTS)
    for row in rows:
        trained = row["contestant"] in ("clip", "clip+rank", FULL)
        assert row["steps"] == (4 if trained else 0)
        assert 0 <= row["r1"] <= row["r5"] <= 1
        assert row["chance_r1"] == pytest.approx(1 / 8)
        assert row["variance_ratio"] > 0
        assert (row["rank_accuracy"] is None) == (row["contestant"] in BASELINES)
        without_segments = (*BASELINES, PLAIN)
        # None also where videos do not differ, as may be after 4 steps.
        assert row["segment_variance_ratio"] is None or row["contestant"] not in without_segments
    assert len({row["budget"] for row in rows}) == 1
    assert out.with_suffix(".png").stat().st_size > 10_000
    text = out.with_suffix(".txt").read_text()
    assert "one seed says nothing about the variation" in text

    # Again: nothing is left to do. Without a row: that row alone.
    out.with_suffix(".json").write_text(json.dumps(rows[1:]))
    capsys.readouterr()
    method.main([*arguments, "--out", str(out)])
    again = json.loads(out.with_suffix(".json").read_text())
    measures = [name for name, *_ in MEASURES]
    assert again[:-1] == rows[1:]
    assert [again[-1][name] for name in measures] == [rows[0][name] for name in measures]

    # Plain contrast alone, at a temperature of its own: one more row in the same table.
    own = ["--contestants", PLAIN, "--set", "loss.clip_temperature=0.5"]
    method.main([*arguments, *own, "--out", str(out)])
    more = json.loads(out.with_suffix(".json").read_text())
    assert more[:-1] == again and more[-1]["contestant"] == PLAIN
    assert f"| {PLAIN}, clip temperature 0.5 | " in out.with_suffix(".txt").read_text()


def test_objectives_of_a_seed_differ_in_nothing_else() -> None:
    budget = method.Budget(recipe="tiny", steps=40)
    configs = [
        budget.resolve(objective=objective, seed=1, num_videos=128).config.to_dict()
        for objective in (PLAIN, FULL)
    ]
    differing = {key for key in configs[0] if configs[0][key] != configs[1][key]}
    assert differing == {"loss.objective"}
    assert configs[0]["schedule.epochs"] == 5  # 40 steps of 8 batches an epoch


def test_baselines_see_what_they_are_named_for() -> None:
    still = torch.rand(2, 3, 1, 24, 24).expand(-1, -1, 4, -1, -1)
    assert BASELINES["frame difference"]()(still).abs().max() == 0
    brighter = still + torch.arange(4.0).view(1, 1, 4, 1, 1)
    assert torch.allclose(BASELINES["frame difference"]()(brighter), torch.tensor(1.0))
    mean, expected = BASELINES["mean frame"]()(brighter), BASELINES["mean frame"]()(still) + 1.5
    assert torch.allclose(mean, expected, atol=1e-6)
