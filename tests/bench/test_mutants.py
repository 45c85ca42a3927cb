"""The mutants of the kernels: that they fit the code, and that a verdict is true."""

from pathlib import Path

import pytest

from bench.mutants import ROOT
from bench.parts.mutants.changes import MUTANTS, Mutant
from bench.parts.mutants.judge import Judge


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_changes_the_code_of_today_and_its_tests_exist(mutant: Mutant) -> None:
    source = (ROOT / mutant.file).read_text()
    compile(mutant.applied(source), mutant.file, "exec")
    assert mutant.tests
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert f"def {name.partition('[')[0]}" in (ROOT / file).read_text(), test


def test_there_are_enough_of_them_and_each_has_a_name() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 30


def test_a_change_that_fits_nowhere_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="'b' occurs 0 times in file.py, must occur once"):
        Mutant("a name", "file.py", "b", "c", ()).applied("a")


def test_a_verdict_is_what_the_tests_say(tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="Triton is not installed, and the judge loads it")
    module, test = tmp_path / "ours.py", tmp_path / "test_ours.py"
    module.write_text("ONE, TWO = 1, 2\n")
    test.write_text("import ours\n\n\ndef test_one():\n    assert ours.ONE == 1\n")
    seen = Mutant("seen", "ours.py", "= 1, 2", "= 3, 2", ("test_ours.py",))
    unseen = Mutant("unseen", "ours.py", "= 1, 2", "= 1, 3", ("test_ours.py",))
    with Judge(tmp_path) as judge:
        assert judge.verdict(seen) == "caught"
        assert judge.verdict(unseen) == "SURVIVED"
        with pytest.raises(RuntimeError, match="pytest ended with 4, must be 0 or 1"):
            judge.verdict(unseen._replace(tests=("test_of_nothing.py",)))
    assert module.read_text() == "ONE, TWO = 1, 2\n"
