"""A cell on real videos: every yardstick, for each video of the fold that is tested."""

from pathlib import Path

import pytest

from bench.parts.method import contestants as c
from bench.parts.method.cells import Cell
from bench.parts.method.measure import measure
from tests.bench.parts.method.small import small_set


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c, "STEPS", 2)
    monkeypatch.setitem(c.PRETRAINING, "clip.crop_size", 32)  # type: ignore[index]
    monkeypatch.setitem(c.FINETUNING, "clip.crop_size", 32)  # type: ignore[index]
    for settings in (c.PRETRAINING, c.FINETUNING):
        monkeypatch.setitem(settings, "data.batch_size", 8)  # type: ignore[index]
    for percent in c.FINETUNE_STEPS:
        monkeypatch.setitem(c.FINETUNE_STEPS, percent, 2)


@pytest.mark.usefixtures("short")
def test_a_cell_has_an_answer_for_every_test_video(tmp_path: Path) -> None:
    data = small_set(tmp_path)
    index = data.open(tmp_path / "packs")
    cell = Cell(data, 1, 0, c.FULL)
    row = measure(cell, index, tmp_path)
    assert row["key"] == cell.key and row["contestant"] == c.FULL
    assert row["groups"] == ["scene01"] and row["group_of"] == [0] * 8
    finetuned = {f"finetuned_{percent}" for percent in c.FINETUNE_STEPS}
    assert set(row["answers"]) == finetuned | {"r1", "r5", "r10", "probe", "moved_rank"}
    for name, answers in row["answers"].items():
        assert len(answers) == 8, name
        assert set(answers) <= (
            {0.0, 0.25, 0.5, 0.75, 1.0, None} if name == "moved_rank" else {0, 1}
        )
    assert not (tmp_path / "cells" / cell.key).exists()
    baseline = measure(Cell(data, 1, 0, "mean frame"), index, tmp_path)
    assert set(baseline["answers"]) == {"r1", "r5", "r10", "probe"}
    searched = measure(Cell(data, 0, 0, c.SCRATCH, {"length": 2.0}, search=True), index, tmp_path)
    assert set(searched["answers"]) == {"finetuned_30"}
