"""Tables of results: one per kind of number, a row per split, and the mean."""

from fastdual.evaluate.average import check_one_method
from fastdual.report.table import markdown_table, remarks, summary
from tests.evaluate.synthetic import made_result, made_split


def test_table_of_runs_ends_in_the_mean_over_their_splits() -> None:
    found = [
        (name, made_result(made_split(f"{name}/test", top1=value)))
        for name, value in zip("abc", (0.2, 0.4, 0.9), strict=True)
    ]
    check_one_method(found)
    last = markdown_table(found, with_mean=True).splitlines()[-1]
    assert [cell.strip() for cell in last.split("|")[-4:-1]] == ["mean of 3", "30", "50.0 ± 36.1"]


def test_every_kind_of_number_has_a_table_of_its_own() -> None:
    found = [
        ("a", made_result(made_split("t/test", top1=0.2))),
        ("b", made_result(made_split("t/test", **{"R@1": 0.3, "R@5": 0.4}), task="retrieve")),
        ("c", made_result(made_split("t/test", top1=0.5, top5=0.6), task="probe")),
    ]
    first, second = (table.splitlines() for table in markdown_table(found).split("\n\n"))
    assert first[0].endswith("| videos | top1 | top5 |") and len(first) == 4
    assert [row.split(" | ")[0] for row in first[2:]] == ["| a", "| c"]
    assert second[0].endswith("| videos | R@1 | R@5 |") and len(second) == 3


def test_summary_names_what_was_left_out_and_what_overlaps() -> None:
    split = made_split("a/test", top1=0.5) | {
        "overlaps": [{}, {}],
        "left_out": {"test": [{"path": "x.mp4", "reason": "gone"}]},
        "commonest_class": 0.25,
    }
    assert summary(made_result(split)).splitlines() == [
        "knn  top1 50.0 % (50.0 to 50.0); 20 training videos (a/train), 10 test videos (a/test)",
        "warning: 2 overlaps of a/train and a/test allowed",
        "warning: 1 videos left out of a/test, first x.mp4 (gone)",
        "always guessing the commonest class gives 25.0 %",
    ]
    clean = made_split("a/test", top1=0.5)
    assert remarks("knn", [clean]) == []
