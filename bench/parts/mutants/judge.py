"""Runs the tests of a mutant in a copy of the tree, and says whether one of them fails."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.parts.mutants.changes import Mutant

_SERVER = Path(__file__).with_name("serve.py")


class Judge:
    """Judges mutants of the tree in a folder, which it changes and puts back."""

    def __init__(self, tree: Path) -> None:
        self._tree = tree
        self._parents: dict[bool, subprocess.Popen[str]] = {}

    def __enter__(self) -> Self:
        """Start nothing: a process starts with the first mutant that it is for."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Let both processes end."""
        for parent in self._parents.values():
            parent.communicate()

    def verdict(self, mutant: Mutant) -> str:
        """Return "caught" or "SURVIVED".

        Raises:
            RuntimeError: The tests did not run, or the change does not fit the file.
        """
        path = self._tree / mutant.file
        original = path.read_text()
        path.write_text(mutant.applied(original))
        try:
            code = self._ask(mutant)
        finally:
            path.write_text(original)
        if code > 1:  # below 0: a signal, of a wild address or of a loop without end
            raise RuntimeError(f"{mutant.name}: pytest ended with {code}, must be 0 or 1")
        return "caught" if code else "SURVIVED"

    def _ask(self, mutant: Mutant) -> int:
        if mutant.interpreted not in self._parents:
            environment = os.environ | {
                "PYTHONPATH": str(self._tree),
                "PYTHONDONTWRITEBYTECODE": "1",
                "OMP_NUM_THREADS": "1",
            }
            environment.pop("TRITON_INTERPRET", None)
            if mutant.interpreted:
                environment["TRITON_INTERPRET"] = "1"
            self._parents[mutant.interpreted] = subprocess.Popen(
                [sys.executable, str(_SERVER)],
                cwd=self._tree, env=environment, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
        parent = self._parents[mutant.interpreted]
        assert parent.stdin is not None and parent.stdout is not None
        print(json.dumps(mutant.tests), file=parent.stdin, flush=True)
        return int(parent.stdout.readline())
