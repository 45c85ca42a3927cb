"""What the page's sections show, from reports made by hand; test_page.py reads the whole page."""

from typing import Any

import pytest

from fastdual.report.sections import confusion_matrix, results
from tests.evaluate.synthetic import made_result, made_split


def report(confusion: list[list[int]]) -> dict[str, Any]:
    return {"class_names": [f"class{i}" for i in range(len(confusion))], "confusion": confusion}


def test_cells_are_shares_of_their_row_and_empty_ones_are_left_out() -> None:
    matrix = confusion_matrix(report([[3, 1], [0, 2]]))
    assert [(c["row"], c["column"], c["share"]) for c in matrix["cells"]] == [
        (0, 0, 0.75),
        (0, 1, 0.25),
        (1, 1, 1.0),
    ]
    assert matrix["cells"][1]["title"] == "class0 taken for class1: 1 of 4"
    assert matrix["most_confused"] == "class0 for class1 (1)"
    assert matrix["names"] == ["class0", "class1"]


@pytest.mark.parametrize(("count", "cell"), [(2, 30), (28, 20), (101, 5)])
def test_many_classes_get_small_cells_without_names(count: int, cell: int) -> None:
    matrix = confusion_matrix(report([[int(i == j) for j in range(count)] for i in range(count)]))
    assert (matrix["cell"], matrix["side"]) == (cell, count * cell)
    assert len(matrix["names"]) == (count if count <= 60 else 0)


def test_results_have_a_row_per_split_and_a_cell_per_number() -> None:
    marked = made_split("b/test", top1=0.5) | {"overlaps": [{}]}
    (table,) = results([("x", made_result(made_split("a/test", top1=0.2, top5=0.9), marked))])
    assert table["titles"] == ["top1"]
    assert [row["texts"][1] for row in table["rows"]] == ["a/test", "b/test (overlaps with train)"]
    assert [row["metrics"][0]["value"] for row in table["rows"]] == [0.2, 0.5]
