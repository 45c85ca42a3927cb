"""What a cell's key depends on, and in which order cells are measured."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bench.parts.method import cells as module
from bench.parts.method import contestants as c
from bench.parts.method.cells import Cell, schedule, search, settings_of
from bench.parts.method.data import DataSet
from fastdual.config import FinetuneConfig, PretrainConfig
from fastdual.config.finetune import FIXED_KEYS as FINETUNE_FIXED_KEYS
from fastdual.config.recipe import build
from fastdual.config.sections import FIXED_KEYS
from tests.bench.parts.method.small import row, small_set


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    return small_set(tmp_path)


def test_a_key_is_the_same_wherever_the_set_lies(data: DataSet, tmp_path: Path) -> None:
    other = replace(data, folder=tmp_path / "elsewhere")
    other.__dict__["rows"] = data.rows
    assert Cell(data, 0, 0, c.FULL).key == Cell(other, 0, 0, c.FULL).key


@pytest.mark.parametrize(
    "changed",
    [
        lambda cell: replace(cell, fold=1),
        lambda cell: replace(cell, seed=1),
        lambda cell: replace(cell, contestant="clip+rank"),
        lambda cell: replace(cell, search=True),
        lambda cell: replace(cell, changed={"optimiser.learning_rate": 1e-3}),
        lambda cell: replace(cell, data=replace(cell.data, num_folds=2)),
        lambda cell: replace(cell, data=replace(cell.data, frame_stride=1)),
    ],
)
def test_a_key_differs_with_everything_that_decides_the_numbers(
    data: DataSet, changed: Callable[[Cell], Cell]
) -> None:
    cell = Cell(data, 0, 0, c.FULL)
    assert changed(cell).key != cell.key


def test_a_key_differs_with_the_version_and_the_steps(
    data: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = Cell(data, 0, 0, c.FULL)
    before = cell.key
    monkeypatch.setattr(c, "STEPS", 10)
    assert cell.key != before
    monkeypatch.undo()
    monkeypatch.setattr(module, "VERSION", 2)
    assert cell.key != before


@pytest.mark.parametrize("name", c.CONTESTANTS)
def test_settings_are_configs_and_contestants_differ_in_their_losses_alone(
    data: DataSet, name: str
) -> None:
    cell, full = Cell(data, 0, 3, name), Cell(data, 0, 3, c.FULL)
    build(FinetuneConfig, [("x", cell.finetuning)], fixed_keys=FINETUNE_FIXED_KEYS)
    config = build(PretrainConfig, [("x", cell.pretraining)], fixed_keys=FIXED_KEYS).config
    assert (config.run.seed, config.clip.frame_stride) == (3, 2)
    differing = {k for k, v in cell.pretraining.items() if full.pretraining.get(k) != v}
    assert differing <= {"loss.objective", "loss.clip_weight"}
    assert cell.finetuning == full.finetuning
    assert set(cell.finetune_steps) == ({100} if name == c.LONG else {100, 30, 10})


def test_a_prefix_of_the_schedule_is_a_fair_comparison(data: DataSet) -> None:
    other = replace(data, name="other")
    other.__dict__["rows"] = data.rows
    cells = schedule([data, other], 2, [], c.CONTESTANTS)
    keys = [(cell.data.name, cell.fold, cell.seed, cell.contestant) for cell in cells]
    assert len(set(keys)) == len(keys) == 2 * 3 * (2 * len(c.CONTESTANTS) + len(c.BASELINES))
    first = [key[3] for key in keys if key[:3] == ("small", 0, 0)]
    assert keys[: len(first)] == [("small", 0, 0, name) for name in first]
    assert first == [*c.BASELINES, *c.CONTESTANTS]
    assert [key[2] for key in keys if key[0] == "small"] == sorted(
        key[2] for key in keys if key[0] == "small"
    )


def test_a_complete_search_decides_the_settings_and_an_incomplete_one_nothing(
    data: DataSet,
) -> None:
    cells = list(search(data, c.CLIP))
    assert len(cells) == 6 and len({cell.key for cell in cells}) == 6
    rows = [
        row(
            c.CLIP,
            {"finetuned_30": [1, 0]},
            key=cell.key,
            search=True,
            means={"finetuned_30": n / 9},
        )
        for n, cell in enumerate(cells)
    ]
    assert settings_of(c.CLIP, data, rows[:-1]) == {}
    assert settings_of(c.CLIP, data, rows) == cells[-1].changed
    chosen = [cell for cell in schedule([data], 1, rows, [c.CLIP]) if cell.contestant == c.CLIP]
    assert {cell.changed["optimiser.learning_rate"] for cell in chosen} == {1e-3}
    assert settings_of(c.LONG, data, rows) == {}
