"""docs/losses.md says what is so: its Python blocks run, top to bottom, as one script."""

import re
from pathlib import Path

import pytest

from fastdual import losses

PAGE = Path(__file__).resolve().parent.parent / "docs" / "losses.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_every_block_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = PAGE.read_text()
    scope: dict[str, object] = {}
    blocks = [*BLOCK.finditer(text)]
    assert len(blocks) >= 10
    for block in blocks:
        # Blank lines in front, so that a traceback names the line of the page.
        line = text[: block.start(1)].count("\n")
        exec(compile("\n" * line + block[1], str(PAGE), "exec"), scope)
        # What is printed stands in comments below the call.
        shown = capsys.readouterr().out.splitlines()
        said = re.findall(r"^# (.*)$", block[1].rpartition("print(")[2], re.MULTILINE)
        assert not said or shown == said


@pytest.mark.parametrize("name", losses.__all__)
def test_every_loss_is_on_the_page(name: str) -> None:
    if name.endswith("Loss"):
        assert f"`{name}`" in PAGE.read_text() or f"{name}(" in PAGE.read_text()


def test_links_within_the_page_lead_somewhere() -> None:
    text = PAGE.read_text()
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}
    assert set(re.findall(r"\]\(#([\w-]+)\)", text)) <= anchors
