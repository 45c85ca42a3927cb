"""`make resolve`, which continuous integration runs, without the network that it needs to pass."""

import os
import subprocess
import sys

from tests.conftest import PROJECT


def test_unreachable_pypi_is_a_failure_that_no_other_index_hides() -> None:
    closed = {"HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    environment = os.environ | closed | {"NO_PROXY": "", "no_proxy": "", "PIP_RETRIES": "0"}
    other = dict.fromkeys(("PIP_FIND_LINKS", "PIP_INDEX_URL"), (PROJECT / "nowhere").as_uri())
    environment |= {"PYTHON": sys.executable, **other}
    done = subprocess.run(
        [PROJECT / ".ci" / "resolve"], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 1
    assert "PyPI cannot be reached, so constraints.txt has NOT been checked" in done.stderr
    assert "nowhere" not in done.stderr


def test_continuous_integration_resolves_beside_the_suite_and_hears_of_it() -> None:
    script = (PROJECT / ".ci" / "run").read_text()
    steps = ("make resolve >", "resolving=$!", "make test\n", 'wait "$resolving" || {', "exit 1")
    places = [script.index(step) for step in steps]
    assert places == sorted(places)
