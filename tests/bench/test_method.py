"""bench.method at its smallest, and its conclusion on numbers whose truth is known."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import method, method_readme
from bench.common import RESULTS
from bench.method_run import CONTESTANTS, NO_MERIT
from bench.method_summary import FULL, MEASURES, PLAIN, compare
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
        assert (row["rank_accuracy"] is None) == (row["contestant"] in NO_MERIT)
    assert len({row["budget"] for row in rows}) == 1
    assert out.with_suffix(".png").stat().st_size > 10_000
    text = out.with_suffix(".txt").read_text()
    assert "one seed says nothing of the spread" in text

    # Again: nothing is left to do. Without a row: that row alone.
    out.with_suffix(".json").write_text(json.dumps(rows[1:]))
    capsys.readouterr()
    method.main([*arguments, "--out", str(out)])
    again = json.loads(out.with_suffix(".json").read_text())
    measures = [name for name, *_ in MEASURES]
    assert again[:-1] == rows[1:]
    assert [again[-1][name] for name in measures] == [rows[0][name] for name in measures]


def test_objectives_of_a_seed_differ_in_nothing_else() -> None:
    budget = method.Budget(recipe="tiny", steps=40)
    configs = [
        budget.resolve(objective=objective, seed=1, num_videos=128).config.to_dict()
        for objective in (PLAIN, FULL)
    ]
    differing = {key for key in configs[0] if configs[0][key] != configs[1][key]}
    assert differing == {"loss.objective"}
    assert configs[0]["schedule.epochs"] == 5  # 40 steps of 8 batches an epoch


def test_networks_of_no_merit_see_what_they_are_named_for() -> None:
    still = torch.rand(2, 3, 1, 24, 24).expand(-1, -1, 4, -1, -1)
    assert NO_MERIT["frame difference"]()(still).abs().max() == 0
    brighter = still + torch.arange(4.0).view(1, 1, 4, 1, 1)
    assert torch.allclose(NO_MERIT["frame difference"]()(brighter), torch.tensor(1.0))
    mean, expected = NO_MERIT["mean frame"]()(brighter), NO_MERIT["mean frame"]()(still) + 1.5
    assert torch.allclose(mean, expected, atol=1e-6)


def _rows(full: list[float], plain: list[float]) -> list[dict[str, Any]]:
    values = {FULL: full, PLAIN: plain}
    return [
        {"contestant": contestant, "seed": seed, "r1": value}
        for contestant, of in values.items()
        for seed, value in enumerate(of)
    ]


@pytest.mark.parametrize(
    ("full", "plain", "verdict"),
    [
        ([0.60, 0.61, 0.62], [0.50, 0.51, 0.53], "above clip (ahead in 3 of 3 seeds"),
        ([0.60, 0.61, 0.62], [0.50, 0.51, 0.53], "it is better beyond the spread"),
        ([0.50, 0.51, 0.53], [0.60, 0.61, 0.62], "it is worse beyond the spread"),
        ([0.50, 0.70, 0.60], [0.55, 0.50, 0.60], "cannot tell the two apart"),
        ([0.50], [0.40], "one seed says nothing"),
    ],
)
def test_conclusion_claims_no_more_than_the_seeds_show(
    full: list[float], plain: list[float], verdict: str
) -> None:
    assert verdict in compare(_rows(full, plain), FULL, PLAIN, "r1")


def test_readme_shows_the_committed_results() -> None:
    method_readme.main(["--check"])


def test_readme_that_is_not_current_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = json.loads((RESULTS / "method.json").read_text())
    rows[0]["r1"] += 0.1
    (tmp_path / "method.json").write_text(json.dumps(rows))
    monkeypatch.setattr(method_readme, "RESULTS", tmp_path)
    with pytest.raises(SystemExit, match="run it"):
        method_readme.main(["--check"])
