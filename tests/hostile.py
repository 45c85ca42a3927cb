"""Values that no file of ours holds, put in the place of those that one does."""

import copy
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fastdual.errors import InputError

# `FASTDUAL_FUZZ_CASES=3000` tries ten times as many; the usual number keeps the suite quick.
CASES = int(os.environ.get("FASTDUAL_FUZZ_CASES", "300"))

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 7, 2**31, 2**63, 2**64, -(2**70), 10**400, 0.5, -0.0, 1e308,
    math.nan, math.inf, -math.inf, "", "x", "<b>", "\x00\x1b[2J\n", "x" * 5000, "1", "none",
    [], [1], [[]], ["a", None], {}, {"a": 1}, {"": {}},
)  # fmt: skip
# As they stand in a text; a reader of JSON or TOML meets some of them as syntax.
TEXTS = (
    "", "none", "nan", "inf", "-inf", "1e999", "1e-400", "9" * 400, "9" * 5000, "-1", "0", "0x10",
    "1_000", "true", "True", "[", "[" * 3000, "]", "[1, 2]", "[[1]]", "{", '{"a": ' * 3000, "'",
    '"', '"x"', "$", "\x00", "\x1b[2J", "\n", "\\", "=", "x = 1", "1979-05-27", "ü", "\ud800",
    "x" * 5000, "1,2", "..", "%s", "{0}", "1e400, 2",
)  # fmt: skip


def mutants(value: Any, *, seed: int, more: tuple[Any, ...] = ()) -> Iterator[Any]:
    """Copies of nested dicts and lists in which one to three places are wrong."""
    rng = np.random.default_rng(seed)
    for _ in range(CASES):
        mutant = copy.deepcopy(value)
        for _ in range(rng.integers(1, 4)):
            _damage(mutant, rng, (*VALUES, *more))
        yield mutant


def _damage(value: Any, rng: np.random.Generator, values: tuple[Any, ...]) -> None:
    """Replace, remove or add something at a random place of a nested value."""
    place = value
    while True:
        keys: list[Any] = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = keys[rng.integers(len(keys))]
        inner = place[key]
        if not (isinstance(inner, dict | list) and inner) or rng.random() < 0.15:
            break
        place = inner
    kind = rng.random()
    if kind < 0.1:
        del place[key]
    elif kind < 0.2 and isinstance(place, dict):
        place[str(values[rng.integers(len(values))])[:50]] = copy.deepcopy(
            values[rng.integers(len(values))]
        )
    else:
        place[key] = copy.deepcopy(values[rng.integers(len(values))])


def broken_texts(text: str, *, seed: int) -> Iterator[str]:
    """Copies of a text with pieces cut out, doubled, or replaced by hostile ones."""
    rng = np.random.default_rng(seed)
    for _ in range(CASES):
        start, stop = sorted(rng.integers(0, len(text) + 1, 2).tolist())
        stop = min(stop, start + int(rng.integers(1, 40)))
        piece = TEXTS[rng.integers(len(TEXTS))] if rng.random() < 0.7 else text[start:stop] * 2
        yield text[:start] + piece + text[stop:]


def judge(read: Callable[[], object], *names: str) -> bool:
    """Read a file; it is refused in one line that names it, or taken. Returns whether it is taken.

    Any other error fails the test: a user would see a traceback.
    """
    try:
        read()
    except InputError as error:
        line = str(error)
        assert "\n" not in line, line
        assert len(line) < 1500, len(line)
        assert all(name in line for name in names), line
        return False
    return True
