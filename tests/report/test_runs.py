"""Logs as arrays, whatever a kill has left of them, and short names for runs."""

from pathlib import Path

import numpy as np
import pytest

from fastdual.errors import InputError
from fastdual.report.runs import distinct_names, read_curves
from tests.report.logs import write_log


def test_log_of_a_killed_run_is_read_up_to_its_broken_line(tmp_path: Path) -> None:
    curves = read_curves(write_log(tmp_path / "a", 3, broken_line=True), "a")
    assert curves.name == "a"
    assert curves.epochs.tolist() == [0.0, 0.5, 1.0]
    assert curves.values["loss"].tolist() == [8.0, 4.0, 8 / 3]
    assert np.isnan(curves.values["clip"]).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "it holds no log.jsonl"),
        ("", "no reading of the training yet"),
        ("[]\n7\n", "no reading"),
        ('{"event": "train"}\n{"event": "train", "step": 1, "epoch": "x"}\n', "no reading"),
    ],
)
def test_folder_without_readings_is_named(
    tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "log.jsonl").write_text(content)
    with pytest.raises(InputError, match=message):
        read_curves(tmp_path, "x")


def test_names_are_as_long_as_it_takes_to_tell_paths_apart() -> None:
    assert distinct_names([Path("x/lr0.1"), Path("x/b.h5")]) == ["lr0.1", "b"]
    assert distinct_names([Path("x/run"), Path("y/run"), Path("y/b")]) == ["x-run", "y-run", "y-b"]
    assert distinct_names([Path("x/run"), Path("x/run")]) == ["run", "run"]
    assert distinct_names([]) == []
