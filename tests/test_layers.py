"""Imports run one way: what each room may import, read from the syntax trees."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]

# Rooms of fastdual from the lowest to the highest: a room may import itself and those before it.
# Those that are lower than others on the same line are named in NARROW.
ORDER = (
    "errors",
    "console",
    "_version",
    "kernels",
    "loaders",
    "backbones",
    "functional",
    "losses",
    "config",
    "model",
    "run",
    "weights",
    "distributed",
    "training",
    "evaluate",
    "report",
    "demo",
    "doctor",
    "fastdual",  # the face: `fastdual.load` and the version
    "commands",
    "cli",
    "__main__",
)
# Rooms that take less than their place in the order allows.
NARROW = {
    "errors": set(),
    "console": {"errors"},
    "_version": set(),
    "kernels": set(),
    "loaders": {"errors"},
    "backbones": {"errors"},
    "functional": {"kernels"},
    "losses": {"kernels", "functional"},
}
# The same inside loaders.
LOADERS = (
    "files", "remote", "plan", "order", "pool", "decode", "index", "views", "batch", "pack",
    "loader", "dataset",
)  # fmt: skip
# Libraries that a room may import beside Python's own; other rooms may import any.
LIBRARIES = {"errors": set(), "_version": set(), "kernels": {"torch", "triton"}}


def sources(folder: str) -> list[Path]:
    """Every Python file of a top-level folder."""
    return sorted((PROJECT / folder).rglob("*.py"))


def module_of(path: Path) -> str:
    """The dotted name under which a file is imported."""
    parts = path.relative_to(PROJECT).with_suffix("").parts
    if parts[0] in ("kernels", "loaders"):
        parts = ("fastdual", *parts)
    return ".".join(parts).removesuffix(".__init__")


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that a file imports, wherever the import stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}:{node.lineno}: a relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def room_of(module: str) -> str:
    """The room of fastdual that a module, or a name in it, belongs to."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ORDER else "fastdual"


def product() -> Iterator[Path]:
    for folder in ("fastdual", "kernels", "loaders"):
        yield from sources(folder)


def wrong_arrows(order: tuple[str, ...] = ORDER) -> list[str]:
    """Every import that runs against the order, by name."""
    wrong = []
    for path in product():
        module = module_of(path)
        room = room_of(module)
        allowed = NARROW.get(room, set(order[: order.index(room)])) | {room}
        for line, name in imports_of(path):
            if name.partition(".")[0] == "fastdual" and room_of(name) not in allowed:
                wrong.append(f"{module}:{line} ({room}) imports {name} ({room_of(name)})")
    return wrong


def test_imports_between_the_rooms_run_one_way() -> None:
    assert wrong_arrows() == []


def test_a_wrong_arrow_is_named() -> None:
    upside_down = wrong_arrows(ORDER[::-1])
    assert any("(training) imports fastdual.run" in arrow for arrow in upside_down)


def test_every_room_has_its_place() -> None:
    found = {room_of(module_of(path)) for path in product()}
    listed = {path.stem for path in (PROJECT / "fastdual").iterdir() if path.suffix in ("", ".py")}
    rooms = {name for name in listed if name.isidentifier() and name != "__pycache__"}
    assert found == set(ORDER)
    assert rooms - {"recipes", "__init__"} <= set(ORDER)


def test_imports_inside_the_loaders_run_one_way() -> None:
    wrong = []
    for path in sources("loaders"):
        module = module_of(path)
        part = module.split(".")[2] if module.count(".") > 1 else None
        if part is None:  # the face of loaders
            continue
        for line, name in imports_of(path):
            words = name.split(".")
            if words[:2] == ["fastdual", "loaders"]:
                above = len(words) < 3 or words[2] not in LOADERS[: LOADERS.index(part) + 1]
                wrong += [f"{module}:{line} imports {name}"] * above
    assert wrong == []


def test_no_modules_import_each_other() -> None:
    """No circle among modules either, with nested and typing imports counted."""
    modules = {module_of(path): path for path in product()}
    arrows = {
        module: {
            target
            for _, name in imports_of(path)
            # A name is a module of its own, or stands in the module before its last dot.
            for target in [name if name in modules else name.rpartition(".")[0]]
            if target in modules and target != module
        }
        for module, path in modules.items()
    }
    open_ends: list[str] = []
    done: set[str] = set()

    def visit(module: str) -> None:
        if module in done:
            return
        assert module not in open_ends, " -> ".join([*open_ends, module])
        open_ends.append(module)
        for target in sorted(arrows[module]):
            visit(target)
        done.add(open_ends.pop())

    for module in sorted(arrows):
        visit(module)


@pytest.mark.parametrize("room", sorted(LIBRARIES))
def test_the_lowest_rooms_need_few_libraries(room: str) -> None:
    import sys

    allowed = LIBRARIES[room] | set(sys.stdlib_module_names) | {"fastdual"}
    wrong = [
        f"{module_of(path)}:{line} imports {name}"
        for path in product()
        if room_of(module_of(path)) == room
        for line, name in imports_of(path)
        if name.partition(".")[0] not in allowed
    ]
    assert wrong == []


def test_nothing_of_the_product_imports_bench_or_tests() -> None:
    wrong = [
        f"{module_of(path)}:{line} imports {name}"
        for path in product()
        for line, name in imports_of(path)
        if name.partition(".")[0] in ("bench", "tests")
    ]
    assert wrong == []


def test_the_benchmarks_do_not_import_the_tests() -> None:
    wrong = [
        f"{module_of(path)}:{line} imports {name}"
        for path in sources("bench")
        for line, name in imports_of(path)
        if name.partition(".")[0] == "tests"
    ]
    assert wrong == []
