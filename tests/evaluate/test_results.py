"""Result files: kept apart by what decides the numbers, written whole, refused when damaged."""

import json
from pathlib import Path

import pytest

from fastdual.errors import FailureError, InputError
from fastdual.evaluate.results import find_results, read_result, result_file, write_result
from tests.evaluate.synthetic import made_result, made_split


def test_results_of_other_settings_are_kept_apart(tmp_path: Path) -> None:
    one = made_result(made_split("a/test", top1=0.2))
    others = [
        made_result(made_split("a/test", top1=0.2), **change)
        for change in (
            {"task": "probe"},
            {"weights_sha256": "random weights, seed 0"},
            {"data_fingerprint": "ef" * 32},
            {"settings": {"clips_per_video": 10, "k": 1}},
            {"settings": {"clips_per_video": 4, "k": 20}},
            {"splits": [made_split("b/test", top1=0.2)]},
            {"splits": [made_split("a/test", top1=0.2) | {"train": "b/train"}]},
            {"splits": [made_split("a/test", top1=0.2), made_split("b/test", top1=0.2)]},
        )
    ]
    files = {result_file(tmp_path, found) for found in (one, *others)}
    assert len(files) == 1 + len(others)
    assert {file.parent for file in files} == {tmp_path / "results"}
    again = made_result(made_split("a/test", top1=0.9), command="the same once more")
    assert result_file(tmp_path, again) == result_file(tmp_path, one)
    # No run: the results lie beside the file of features or weights that was measured.
    assert result_file(tmp_path / "f.h5", one).parent == tmp_path / "f-results"


def test_results_of_a_run_are_found_by_its_name(tmp_path: Path) -> None:
    one = made_result(made_split("a/test", top1=0.2))
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    with pytest.raises(InputError, match="run: no result yet; fastdual probe"):
        find_results([run])
    write_result(result_file(run, one), one)
    write_result(tmp_path / "b.json", one)
    assert find_results([run, tmp_path / "b.json"]) == [("run", one), ("b", one)]


def test_what_is_no_result_is_refused(tmp_path: Path) -> None:
    file, one = tmp_path / "a.json", made_result(made_split("a/test", top1=0.2))
    with pytest.raises(InputError, match="a.json: cannot be read: No such file"):
        read_result(file)
    for content, message in {
        json.dumps(one)[:-9]: "not JSON",
        "[]": "JSON, but no result",
        json.dumps(one | {"format_version": 9}): "result format 9, this fastdual reads 1",
    }.items():
        file.write_text(content)
        with pytest.raises(InputError, match=message):
            read_result(file)
    with pytest.raises(FailureError, match="the result could not be written: Not a directory"):
        write_result(file / "x" / "b.json", one)
