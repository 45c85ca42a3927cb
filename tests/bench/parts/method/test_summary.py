"""The table and the sentences of bench.method, on numbers whose truth is known."""

from pathlib import Path

from bench.parts.method import contestants as c
from bench.parts.method.summary import conclude, describe, draw, table, verdicts
from tests.bench.parts.method.small import row

GOOD, BAD = [1.0] * 18 + [0.0] * 2, [1.0] * 4 + [0.0] * 16


def rows() -> list[dict[str, object]]:
    found = []
    for seed in (0, 1):
        for name, answers in ((c.FULL, GOOD), (c.CLIP, BAD), (c.SCRATCH, GOOD)):
            given = {"finetuned_100": answers, "finetuned_10": answers, "probe": BAD}
            found.append(row(name, given, seed=seed))
    return [*found, row("mean frame", {"probe": BAD})]


def test_a_table_has_a_line_for_what_was_measured_and_a_dash_for_what_was_not() -> None:
    lines = table(rows(), "signs", ("finetuned_100", "finetuned_30", "probe")).splitlines()
    assert lines[0] == "| | fine-tuned, all labels | 30 % of the labels | linear probe |"
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        f"| {name}" for name in (c.FULL, c.SCRATCH, c.CLIP, "mean frame")
    ]
    assert lines[2].startswith(f"| {c.FULL} | 90.0 (") and " | - | 20.0 (" in lines[2]


def test_sentences_say_what_is_clear_and_what_is_not() -> None:
    said = verdicts(rows(), "signs")
    assert f"{c.FULL} is 70.0 points above {c.CLIP} (95 % interval +" in said[1]
    assert said[1].endswith("clear of 0.")
    assert f"{c.FULL} is 0.0 points above {c.SCRATCH}" in said[0]
    assert said[0].endswith("these cells cannot tell the two apart.")
    assert "mean frame (linear probe)" in said[2]


def test_one_seed_is_said_to_be_one() -> None:
    (line, *_) = verdicts([r for r in rows() if r["seed"] == 0], "signs")
    assert line.endswith("one seed says nothing of the variation between seeds.")


def test_cells_of_the_search_are_no_part_of_the_comparison() -> None:
    wrong = row(c.FULL, {"finetuned_100": BAD}, search=True, seed=7)
    assert conclude([*rows(), wrong]) == conclude(rows())
    assert conclude([wrong]) == ""
    said = describe(rows(), "signs")
    assert "20 test videos of 2 groups" in said and "1 fold, 2 seeds" in said


def test_the_figure_is_drawn(tmp_path: Path) -> None:
    draw(rows(), tmp_path / "m.png")
    assert (tmp_path / "m.png").stat().st_size > 10_000
