"""Do the tests of the kernels see a kernel that is wrong? One known change at a time.

    python -m bench.mutants [--only WORD ...] [--fresh] [--out FILE]

Every mutant of bench/parts/mutants/changes.py is made in a copy of the tree and judged by the tests
named with it, on a CPU, kernels interpreted. Prints each verdict, and at the end the mutants that
survived: code that is wrong and that no test sees. FILE keeps the verdicts, so that a run that was
stopped goes on; a mutant is judged anew if it survived, or its file or its tests have changed.
"""

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if not __package__:  # run as a file
    sys.path[0] = str(ROOT)

from bench.parts.mutants.changes import MUTANTS, Mutant  # noqa: E402
from bench.parts.mutants.judge import Judge  # noqa: E402
from fastdual.loaders import files  # noqa: E402


def key_of(mutant: Mutant) -> str:
    """Return what a verdict is true of: the change, the code around it, and the tests."""
    files = {mutant.file, *(test.partition("::")[0] for test in mutant.tests)}
    contents = [(ROOT / file).read_bytes() for file in sorted(files)]
    return hashlib.sha256(b"\0".join([repr(mutant).encode(), *contents])).hexdigest()[:16]


@contextmanager
def copy_of_the_tree() -> Iterator[Path]:
    """Copy what the tests need, with the links that make the two other packages part of ours."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("fastdual", "kernels", "loaders", "bench", "tests", "pyproject.toml"):
            source, target = ROOT / name, copy / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=_ignored)
            else:
                shutil.copy(source, target)
        for package in ("kernels", "loaders"):
            (copy / "fastdual" / package).symlink_to(Path("..", package))
        yield copy


def _ignored(folder: str, names: list[str]) -> set[str]:
    links = {name for name in names if Path(folder, name).is_symlink()}
    return links | {"__pycache__", "results"}


def main() -> int:
    """Judge the mutants; the exit code is the number of survivors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD", help="parts of names")
    parser.add_argument("--fresh", action="store_true", help="judge also what was judged before")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "mutants.json")
    arguments = parser.parse_args()
    wanted = [mutant for mutant in MUTANTS if any(word in mutant.name for word in arguments.only)]
    kept: dict[str, str] = {}
    if arguments.out.exists() and not arguments.fresh:
        kept = json.loads(arguments.out.read_text())
    verdicts = {}
    with copy_of_the_tree() as tree, Judge(tree) as judge:
        for mutant in wanted:
            key = key_of(mutant)
            verdict = kept.get(key) or judge.verdict(mutant)
            verdicts[mutant.name] = verdict
            if verdict == "caught":  # another test may see the others yet
                kept[key] = verdict
            print(f"{verdict:9} {mutant.name}", flush=True)
            files.write(arguments.out, json.dumps(kept, indent=1), "the verdicts")
    survivors = [name for name, verdict in verdicts.items() if verdict != "caught"]
    print(f"{len(verdicts)} mutants; not caught: {', '.join(survivors) or 'none'}")
    return len(survivors)


if __name__ == "__main__":
    sys.exit(main())
