"""Tables of Markdown, and generated text within a document."""

from collections.abc import Iterable, Sequence


def markdown_table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """Return a table; a cell of the head may be empty."""
    rows = "".join(f"\n| {' | '.join(cells)} |" for cells in body)
    return f"| {' | '.join(head)} |\n{'|---' * len(head)}|{rows}".replace("|  |", "| |", 1)


def between_marks(document: str, marks: tuple[str, str], text: str) -> str:
    """Return the document with the text between its two marks replaced.

    Raises:
        ValueError: A mark is missing.
    """
    before, start, rest = document.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not end:
        raise ValueError(f"the document lacks the marks {marks[0]} and {marks[1]}")
    return f"{before}{start}\n{text}\n{end}{after}"
