"""What users are told to install is ours: `fastdual` on PyPI is another project."""

import re
from pathlib import Path

import pytest

from tests.conftest import PROJECT

# The name may follow a quote, an option, or the end of a line of code.
FOREIGN = re.compile(r"pip install(?:[\s\"'`\\]|-{1,2}[\w-]+)*fastdual(?!-video)")
HINT = re.compile(r"pip install[\s\"'`\\]*\.\[")
FOLDERS = ("fastdual", "kernels", "loaders", "bench", "docs", "requirements", "tests")


def pages() -> list[Path]:
    """Every source file and page, and what lies beside them."""
    found = [path for path in PROJECT.iterdir() if path.suffix in (".md", ".py", ".toml", ".txt")]
    found += [PROJECT / "Makefile", *(PROJECT / ".ci").iterdir()]
    for folder in FOLDERS:
        files = (PROJECT / folder).rglob("*")
        found += [path for path in files if path.suffix in (".md", ".py", ".toml", ".txt")]
    return found


def test_no_page_or_message_installs_the_other_fastdual() -> None:
    read = pages()
    assert len(read) > 100
    wrong = [str(path) for path in read if FOREIGN.search(path.read_text(encoding="utf-8"))]
    assert not wrong


@pytest.mark.parametrize(
    ("text", "foreign"),
    [
        ('pip install "fast' + 'dual[video]"', True),
        ("pip install fast" + "dual", True),
        ("pip install -U --quiet 'fast" + "dual[onnx]'", True),
        ('"pip install "\n    "fast' + 'dual"', True),
        ('pip install "fastdual-video[video]"', False),
        ('pip install ".[video]" in fastdual\'s checkout', False),
        ("pip uninstall fastdual", False),
    ],
)
def test_foreign_name_is_recognised(text: str, foreign: bool) -> None:
    assert bool(FOREIGN.search(text)) is foreign


def test_messages_say_where_an_extra_is_installed_from() -> None:
    """`.[video]` means nothing outside the checkout, so a message names it too."""
    hints = []
    for path in sorted((PROJECT / "fastdual").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        hints += [(path.name, text[hint.start() :][:80]) for hint in HINT.finditer(text)]
    assert len(hints) >= 4
    assert not [hint for hint in hints if "checkout" not in hint[1]]
