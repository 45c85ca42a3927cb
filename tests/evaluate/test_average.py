"""The mean over splits: what is averaged, and which results are no splits of one method."""

import math
from typing import Any

import pytest

from fastdual.errors import InputError
from fastdual.evaluate.average import check_one_method, mean_and_deviation
from fastdual.evaluate.results import make_result, result_file
from fastdual.report.table import markdown_table


def split(test: str, **metrics: float) -> dict[str, Any]:
    return {
        "train": test.replace("test", "train"),
        "test": test,
        "num_train": 20,
        "num_test": 10,
        "metrics": {name: {"value": v, "low": v, "high": v} for name, v in metrics.items()},
        "overlaps": [],
        "left_out": {"test": []},
    }


def result(*splits: dict[str, Any], **changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "task": "knn",
        "command": "fastdual knn",
        "weights_sha256": "ab" * 32,
        "data_fingerprint": "cd" * 32,
        "settings": {"clips_per_video": 10, "k": 20},
        "splits": splits,
    }
    return make_result(**(given | changes))


def test_mean_and_deviation_are_those_of_the_splits() -> None:
    splits = [
        split("a/test", top1=0.2, top5=1.0),
        split("b/test", top1=0.4),
        split("c/test", top1=0.9),
    ]
    found = mean_and_deviation(splits)
    assert found.keys() == {"top1"}  # not every split has a top-5
    assert found["top1"] == (pytest.approx(0.5), pytest.approx(math.sqrt(0.13)))
    ((mean, deviation),) = mean_and_deviation(splits[1:2]).values()
    assert mean == 0.4 and math.isnan(deviation)


def test_table_of_runs_ends_in_the_mean_over_their_splits() -> None:
    found = [
        (name, result(split(f"{name}/test", top1=value)))
        for name, value in zip("abc", (0.2, 0.4, 0.9), strict=True)
    ]
    check_one_method(found)
    last = markdown_table(found, with_mean=True).splitlines()[-1]
    assert [cell.strip() for cell in last.split("|")[-4:-1]] == ["mean of 3", "30", "50.0 ± 36.1"]


def test_every_kind_of_number_has_a_table_of_its_own() -> None:
    found = [
        ("a", result(split("t/test", top1=0.2))),
        ("b", result(split("t/test", **{"R@1": 0.3, "R@5": 0.4}), task="retrieve")),
        ("c", result(split("t/test", top1=0.5, top5=0.6), task="probe")),
    ]
    first, second = (table.splitlines() for table in markdown_table(found).split("\n\n"))
    assert first[0].endswith("| videos | top1 | top5 |") and len(first) == 4
    assert [row.split(" | ")[0] for row in first[2:]] == ["| a", "| c"]
    assert second[0].endswith("| videos | R@1 | R@5 |") and len(second) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "probe"}, "task is 'knn' in a .knn on a/test. and 'probe' in b"),
        ({"checkpoint": "ef" * 32}, "checkpoint is 'abab"),
        ({"data_fingerprint": "ef" * 32}, "data_fingerprint is 'cdcd"),
        ({"settings": {"clips_per_video": 10, "k": 1}}, "k is 20 in a .* and 1 in b"),
        ({"settings": {"clips_per_video": 10}}, "k is 20 in a .* and None in b"),
        ({"splits": [split("a/test", top1=0.3)]}, "the split 'a/test' is in a .* and in b"),
    ],
)
def test_results_that_are_no_splits_of_one_method_are_refused(
    change: dict[str, Any], message: str
) -> None:
    one, other = result(split("a/test", top1=0.2)), result(split("b/test", top1=0.4))
    check_one_method([("a", one), ("b", other)])
    with pytest.raises(InputError, match=message):
        check_one_method([("a", one), ("b", {**other, **change})])


def test_single_split_has_no_mean() -> None:
    with pytest.raises(InputError, match="only the split 'a/test' is there; name more results"):
        check_one_method([("a", result(split("a/test", top1=0.2)))])


def test_finetuning_runs_may_differ_in_their_splits_and_in_how_the_work_was_done() -> None:
    def run(number: int, **config: Any) -> tuple[str, dict[str, Any]]:
        whole = {"test.split": f"u-{number}/test", "data.split": f"u-{number}/train"} | config
        return f"ft{number}", result(
            split(f"u-{number}/test", top1=0.5), task="finetune", settings={"config": whole}
        )

    check_one_method([run(1), run(2, **{"data.num_workers": 8, "run.device": "cuda"})])
    with pytest.raises(InputError, match=r"optimiser.learning_rate is None in ft1 .* and 0.1 in"):
        check_one_method([run(1), run(2, **{"optimiser.learning_rate": 0.1})])


def test_results_of_other_settings_are_kept_apart(tmp_path: Any) -> None:
    one = result(split("a/test", top1=0.2))
    others = [
        result(split("a/test", top1=0.2), **change)
        for change in (
            {"task": "probe"},
            {"weights_sha256": "random weights, seed 0"},
            {"data_fingerprint": "ef" * 32},
            {"settings": {"clips_per_video": 10, "k": 1}},
            {"settings": {"clips_per_video": 4, "k": 20}},
            {"splits": [split("b/test", top1=0.2)]},
            {"splits": [split("a/test", top1=0.2) | {"train": "b/train"}]},
            {"splits": [split("a/test", top1=0.2), split("b/test", top1=0.2)]},
        )
    ]
    files = {result_file(tmp_path, found) for found in (one, *others)}
    assert len(files) == 1 + len(others)
    assert {file.parent for file in files} == {tmp_path / "results"}
    again = result(split("a/test", top1=0.9), command="the same once more")
    assert result_file(tmp_path, again) == result_file(tmp_path, one)
    # No run: the results lie beside the file of features or weights that was measured.
    assert result_file(tmp_path / "f.h5", one).parent == tmp_path / "f-results"
