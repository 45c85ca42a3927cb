"""Tables of Markdown, and text between marks."""

import pytest

from bench.parts.markdown import between_marks, markdown_table


def test_a_table_may_have_an_empty_head() -> None:
    assert markdown_table(["", "a"], [["x", "1"]]) == "| | a |\n|---|---|\n| x | 1 |"


def test_only_what_lies_between_the_marks_is_replaced() -> None:
    marks = "<begin>", "<end>"
    assert between_marks("a\n<begin>\nold\n<end>\nb", marks, "new") == "a\n<begin>\nnew\n<end>\nb"
    for document in ("a <begin> b", "a <end> b", "a"):
        with pytest.raises(ValueError, match="lacks the marks <begin> and <end>"):
            between_marks(document, marks, "new")
