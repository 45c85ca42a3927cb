"""bench.train on a CPU: contestants agree before they are timed, and parts add up."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench import train
from bench.parts.results import Row, describe_machine, read_rows
from bench.parts.train import contestants, figures
from bench.parts.train.case import Case, Size
from bench.parts.train.contestants import PARTS
from bench.parts.train.plot import draw, one_line
from bench.train import measure
from fastdual.training.loop import StepOutput
from tests.runs import write_index

CASE = Case("tiny", Size(batch=2, frames=8, crop=32), torch.device("cpu"))


def test_contestants_agree_and_their_parts_add_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "REAL_STEPS", 3)
    monkeypatch.setattr(figures, "REAL_WARMUP", 1)
    index = write_index(tmp_path, count=4)
    names = ["paper", "ours"]
    rows = list(measure(CASE, names, repeats=1, data=index))
    assert [row["contestant"] for row in rows] == names
    for row in rows:
        assert row["status"] == "ok", row
        assert row["step_ms"] == pytest.approx(sum(row[f"{part}_ms"] for part in PARTS), rel=0.01)
        assert row["kernels_convolution_ms"] > 0
        assert 0 <= row["real_data_wait_share"] <= 1
        assert row["contestant"] in one_line(row)
    machine = describe_machine(CASE.device)
    draw([row | machine for row in rows], tmp_path / "train.png")
    assert (tmp_path / "train.png").stat().st_size > 5000


def test_a_contestant_that_computes_something_else_is_not_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = contestants.STEPS["eager"]

    def wrong(*arguments: object) -> StepOutput:
        output = right(*arguments)
        return StepOutput(output.loss * 1.01, output.metrics)

    monkeypatch.setitem(contestants.STEPS, "eager", wrong)
    (row,) = measure(CASE, ["eager"], repeats=1, data=None)
    assert row["status"] == "disagrees"
    assert "step_ms" not in row
    assert "disagrees (off by 1.0e-02)" in one_line(row)


def test_a_contestant_that_does_not_fit_ends_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def create(name: str, case: Case) -> object:
        if name == "paper":
            raise torch.OutOfMemoryError
        return SimpleNamespace(name=name)

    monkeypatch.setattr(train, "Contestant", create)
    monkeypatch.setattr(train, "compare", lambda made: {"status": "disagrees", "max_error": "1"})
    rows = list(measure(CASE, ["paper", "ours"], repeats=1, data=None))
    assert [row["status"] for row in rows] == ["out of memory", "disagrees"]
    assert "out of memory" in one_line(rows[0])


def test_a_run_that_continues_measures_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def stand_in(case: Case, names: list[str], **_: object) -> Iterator[Row]:
        asked.append(names)
        for name in names:
            yield case.describe() | {"contestant": name, "status": "wrong", "max_error": "1"}

    monkeypatch.setattr(train, "measure", stand_in)
    monkeypatch.setattr(train, "draw", lambda *_: None)
    command = ["--backbones", "tiny", "--out", str(tmp_path / "train"), "--continue"]
    train.main([*command, "--contestants", "ours", "paper"])
    train.main([*command, "--contestants", "ours", "ours, fp32", "paper"])
    train.main([*command, "--contestants", "ours", "paper"])
    # The first is there for the others to be timed beside.
    assert asked == [["ours", "paper"], ["ours", "ours, fp32"], []]
    rows = [row["contestant"] for row in read_rows(tmp_path / "train.json")]
    assert rows == ["ours", "paper", "ours, fp32"]


def test_the_reference_is_computed_without_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, take_step = set(), contestants.take_step

    def note(*arguments: object) -> StepOutput:
        seen.add((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))
        return take_step(*arguments)

    before = torch.backends.cudnn.allow_tf32
    contestant = contestants.Contestant("ours", CASE)
    monkeypatch.setattr(contestants, "take_step", note)
    contestants.reference_losses(contestant, 1)
    assert seen == {(False, False)}
    assert torch.backends.cudnn.allow_tf32 == before
