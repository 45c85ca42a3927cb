"""docs/benchmarks.md shows the committed results, and it is noticed where it does not."""

import shutil
from pathlib import Path

import pytest

from bench import readme
from bench.parts.method.journal import append
from bench.parts.results import RESULTS
from tests.bench.parts.method.small import row


def test_the_page_shows_the_committed_results() -> None:
    readme.main(["--check"])


def test_a_page_that_is_not_current_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in RESULTS.glob("*.*"):
        shutil.copy(file, tmp_path)
    append(tmp_path / "method.jsonl", row("clip", {"finetuned_100": [1.0, 0.0]}, data="another"))
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    with pytest.raises(SystemExit, match="run it"):
        readme.main(["--check"])
