"""`make test-floor`: the versions that it installs are the first that pyproject.toml allows."""

import re
import subprocess
import sys

from tests.conftest import PROJECT


def test_the_floor_is_the_lower_bound_of_every_range() -> None:
    printed = subprocess.run(
        [sys.executable, PROJECT / ".ci" / "lowest"], capture_output=True, text=True, check=True
    )
    lowest = dict(line.split("==") for line in printed.stdout.splitlines())
    project = (PROJECT / "pyproject.toml").read_text().partition("[project.scripts]")[0]
    bounds = dict(re.findall(r'"([\w-]+)>=([\d.]+)"', project))
    assert len(bounds) > 10
    assert bounds.items() <= lowest.items()
    # What a machine with a GPU has been seen with.
    assert (lowest["torch"], lowest["triton"]) == ("2.11", "3.6")


def test_the_floor_is_tried_with_tests_that_exist() -> None:
    recipe = (PROJECT / "Makefile").read_text()
    (tests,) = re.findall(r"^FLOOR_TESTS := ((?:.*\\\n)*.*)\n", recipe, flags=re.M)
    paths = tests.replace("\\\n", " ").split()
    assert len(paths) > 5
    assert not [path for path in paths if not (PROJECT / path).exists()]
