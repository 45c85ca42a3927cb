"""CONTRIBUTING.md is true: what it names exists, and every module has a test that it names."""

import re
from pathlib import Path

from tests.conftest import PROJECT

PAGE = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def modules() -> list[Path]:
    """Every module of the product, relative to the project."""
    return [
        path.relative_to(PROJECT)
        for folder in ("fastdual", "kernels", "loaders")
        for path in sorted((PROJECT / folder).rglob("*.py"))
        if path.name != "__init__.py" and not path.is_relative_to(PROJECT / folder / folder)
    ]


def own_test(module: Path) -> Path:
    """Where the test of a module's own name would lie."""
    parts = module.parts[1:] if module.parts[0] == "fastdual" else module.parts
    return Path("tests", *parts[:-1], f"test_{parts[-1]}")


def covered() -> dict[str, list[str]]:
    """Modules without a test of their name, and the tests that the page gives for them."""
    table = PAGE.partition("## Which test covers what")[2].partition("\n## ")[0]
    rows = (re.findall(r"`([^`]+)`", line) for line in table.splitlines() if line.startswith("| `"))
    return {row[0]: row[1:] for row in rows}


def test_every_module_has_a_test_or_is_listed_with_one() -> None:
    without = {str(module) for module in modules() if not (PROJECT / own_test(module)).exists()}
    assert without == set(covered())


def test_the_tests_of_the_list_exist() -> None:
    missing = [
        test for tests in covered().values() for test in tests if not (PROJECT / test).exists()
    ]
    assert missing == [] and all(covered().values())


def test_every_room_of_the_map_exists_and_every_room_is_on_the_map() -> None:
    table = PAGE.partition("## The map")[2].partition("\n## ")[0]
    folders = set(re.findall(r"`((?:fastdual|kernels|loaders)/[a-z_/]*|[a-z_]+/)`", table))
    rooms = {
        f"{path.relative_to(PROJECT)}/"
        for top in ("fastdual", "kernels", "loaders")
        for path in (PROJECT / top).iterdir()
        if (path / "__init__.py").exists() and not path.is_symlink()
    }
    named = {name.rstrip("/").rpartition("/")[2] for name in folders}
    assert {room.rstrip("/").rpartition("/")[2] for room in rooms} <= named
    for name in named - {"bench", "tests", "parts", "results", "templates", "shared"}:
        assert list(PROJECT.glob(f"*/{name}")) or (PROJECT / name).is_dir(), name
