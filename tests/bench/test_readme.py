"""docs/benchmarks.md shows the committed results, and it is noticed where it does not."""

import json
from pathlib import Path

import pytest

from bench import readme
from bench.parts.results import RESULTS


def test_the_page_shows_the_committed_results() -> None:
    readme.main(["--check"])


def test_a_page_that_is_not_current_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = json.loads((RESULTS / "method.json").read_text())
    rows[0]["r1"] += 0.1
    (tmp_path / "method.json").write_text(json.dumps(rows))
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    with pytest.raises(SystemExit, match="run it"):
        readme.main(["--check"])
