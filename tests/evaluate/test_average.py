"""The mean over splits: what is averaged, and which results are no splits of one method."""

import math
from typing import Any

import pytest

from fastdual.errors import InputError
from fastdual.evaluate.average import check_one_method, mean_and_deviation
from tests.evaluate.synthetic import made_result, made_split


def test_mean_and_deviation_are_those_of_the_splits() -> None:
    splits = [
        made_split("a/test", top1=0.2, top5=1.0),
        made_split("b/test", top1=0.4),
        made_split("c/test", top1=0.9),
    ]
    found = mean_and_deviation(splits)
    assert found.keys() == {"top1"}  # not every split has a top-5
    assert found["top1"] == (pytest.approx(0.5), pytest.approx(math.sqrt(0.13)))
    ((mean, deviation),) = mean_and_deviation(splits[1:2]).values()
    assert mean == 0.4 and math.isnan(deviation)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "probe"}, "task is 'knn' in a .knn on a/test. and 'probe' in b"),
        ({"checkpoint": "ef" * 32}, "checkpoint is 'abab"),
        ({"data_fingerprint": "ef" * 32}, "data_fingerprint is 'cdcd"),
        ({"settings": {"clips_per_video": 10, "k": 1}}, "k is 20 in a .* and 1 in b"),
        ({"settings": {"clips_per_video": 10}}, "k is 20 in a .* and None in b"),
        ({"splits": [made_split("a/test", top1=0.3)]}, "the split 'a/test' is in a .* and in b"),
    ],
)
def test_results_that_are_no_splits_of_one_method_are_refused(
    change: dict[str, Any], message: str
) -> None:
    one, other = (
        made_result(made_split("a/test", top1=0.2)),
        made_result(made_split("b/test", top1=0.4)),
    )
    check_one_method([("a", one), ("b", other)])
    with pytest.raises(InputError, match=message):
        check_one_method([("a", one), ("b", {**other, **change})])


def test_finetuning_runs_may_differ_in_their_splits_and_in_how_the_work_was_done() -> None:
    def run(number: int, **config: Any) -> tuple[str, dict[str, Any]]:
        whole = {"test.split": f"u-{number}/test", "data.split": f"u-{number}/train"} | config
        return f"ft{number}", made_result(
            made_split(f"u-{number}/test", top1=0.5), task="finetune", settings={"config": whole}
        )

    check_one_method([run(1), run(2, **{"data.num_workers": 8, "run.device": "cuda"})])
    with pytest.raises(InputError, match=r"optimiser.learning_rate is None in ft1 .* and 0.1 in"):
        check_one_method([run(1), run(2, **{"optimiser.learning_rate": 0.1})])


def test_single_split_has_no_mean() -> None:
    with pytest.raises(InputError, match="only the split 'a/test' is there; name more results"):
        check_one_method([("a", made_result(made_split("a/test", top1=0.2)))])
