"""Recipes: dataclass sections filled from TOML files and settings, each value with its origin.

Nothing here knows what is trained: `build` works on any frozen dataclass whose fields are
dataclasses of plain values.
"""

import dataclasses
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib import resources
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from fastdual.config.unknown import unknown_key
from fastdual.errors import InputError, first_line, shown
from fastdual.loaders.files import refuse_special

C_co = TypeVar("C_co", covariant=True)
Layer = tuple[str, Mapping[str, Any]]
MAX_RECIPE_BYTES = 1 << 20
# A number of thousands of digits is a plain ValueError, brackets within brackets end the recursion.
_NO_TOML = (ValueError, RecursionError)


@dataclass(frozen=True)
class Resolved(Generic[C_co]):
    """A config and, by dotted key, the origin of each value: `default`, `recipe NAME`, `--set`."""

    config: C_co
    sources: Mapping[str, str]


def flatten(config: Any) -> dict[str, Any]:
    """Return the plain values of a config by dotted key, in the order of the fields.

    Tuples stay tuples; an enumeration's member becomes its value.
    """
    values = {
        f"{section.name}.{entry.name}": getattr(getattr(config, section.name), entry.name)
        for section in dataclasses.fields(config)
        for entry in dataclasses.fields(getattr(config, section.name))
    }
    return {key: v.value if isinstance(v, Enum) else v for key, v in values.items()}


def build(
    config_type: type[C_co],
    layers: Iterable[Layer],
    *,
    settings: Sequence[str] = (),
    fixed_keys: frozenset[str] = frozenset(),
) -> Resolved[C_co]:
    """Fill a config; later layers win.

    Args:
        config_type: Dataclass whose fields are dataclasses (the sections) of plain values.
        layers: Pairs of an origin and its values by dotted key.
        settings: Texts `key=value`, read as the key's type; they win over all layers.
        fixed_keys: Keys that exist but may not be set.

    Raises:
        InputError: An unknown key, a value of the wrong type, or one that a section refuses.
    """
    hints = {key: hint for key, hint in _hints(config_type).items() if key not in fixed_keys}
    values: dict[str, Any] = {}
    sources = dict.fromkeys(hints, "default")
    texts = _parse_settings(settings)
    try:
        for origin, layer in (*layers, ("--set", texts)):
            for key, value in layer.items():
                if key not in hints:
                    raise InputError(f"{unknown_key(key, hints)} (from {origin})")
                sources[key] = origin
                parsed = _parse_text(value, hints[key]) if layer is texts else value
                values[key] = _convert(parsed, hints[key], key=key)
        return Resolved(_construct(config_type, values), sources)
    except InputError as error:
        given = [key for key in error.keys if sources.get(key, "default") != "default"]
        origins = ", ".join(f"{key} from {sources[key]}" for key in given)
        raise InputError(f"{error} ({origins})" if origins else str(error), error.keys) from None


def read_recipe(name: str) -> tuple[str, dict[str, Any]]:
    """Return origin and flat values of a recipe: one that ships with fastdual, or a TOML file.

    Raises:
        InputError: There is none, or it is no TOML.
    """
    shipped = recipe_names()
    if name in shipped:
        text = (resources.files("fastdual") / "recipes" / f"{name}.toml").read_text("utf-8")
        return f"recipe {name}", parse_toml(text, origin=f"recipe {name}")
    path = Path(name)
    if not path.is_file():
        raise InputError(
            f"recipe {name!r}: neither a file nor one of the recipes {', '.join(shipped)}"
        )
    return f"recipe {path.name}", read_toml(path)


def recipe_names() -> list[str]:
    """Return the names of the recipes that ship with fastdual."""
    folder = resources.files("fastdual") / "recipes"
    return sorted(e.name[:-5] for e in folder.iterdir() if e.name.endswith(".toml"))


def read_toml(path: Path) -> dict[str, Any]:
    """Read a recipe file as flat values; errors name the file."""
    refuse_special(path)
    try:
        if path.stat().st_size > MAX_RECIPE_BYTES:
            raise InputError(f"{path}: larger than {MAX_RECIPE_BYTES} bytes, so not a recipe")
        # With the mark of byte order that some editors write, or without.
        return parse_toml(path.read_text("utf-8-sig"), origin=str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a recipe: {error}") from None


def parse_toml(text: str, *, origin: str) -> dict[str, Any]:
    """Return the values of a TOML text by dotted key, section.name; errors name `origin`."""
    try:
        tables = tomllib.loads(text)
    except _NO_TOML as error:
        raise InputError(f"{origin}: not valid TOML: {first_line(error)}") from None
    flat: dict[str, Any] = {}
    for section, table in tables.items():
        if isinstance(table, dict):
            flat.update({f"{section}.{key}": value for key, value in table.items()})
        else:
            flat[section] = table
    return flat


def _parse_settings(settings: Sequence[str]) -> dict[str, str]:
    """Split `key=value` texts; a key given twice keeps its last value."""
    parsed = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise InputError(f"--set {shown(setting)}: write it as section.key=value")
        parsed[key.strip()] = value.strip()
    return parsed


def to_toml(values: Mapping[str, Any], sources: Mapping[str, str] | None = None) -> str:
    """Write flat values as TOML tables, each with its origin as a comment.

    A key whose value is None is a comment too: TOML has no such value.
    """
    lines: list[str] = []
    current = None
    for key, value in values.items():
        section, name = key.split(".")
        if section != current:
            lines += ([""] if lines else []) + [f"[{section}]"]
            current = section
        origin = f"  # {sources[key]}" if sources and key in sources else ""
        text = f"# {name} = none" if value is None else f"{name} = {_toml_value(value)}"
        lines.append(f"{text}{origin}")
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        plain = "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped)
        return f'"{plain}"'
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    return repr(value)


def _hints(config_type: type) -> dict[str, Any]:
    """Return the type of each value by dotted key."""
    return {
        f"{section}.{name}": hint
        for section, section_type in typing.get_type_hints(config_type).items()
        for name, hint in typing.get_type_hints(section_type).items()
        if name in {f.name for f in dataclasses.fields(section_type)}
    }


def _construct(config_type: type[C_co], values: Mapping[str, Any]) -> C_co:
    sections: dict[str, Any] = {}
    for section, section_type in typing.get_type_hints(config_type).items():
        own = {k.split(".")[1]: v for k, v in values.items() if k.split(".")[0] == section}
        try:
            sections[section] = section_type(**own)
        except InputError as error:  # a section may know its own keys alone
            keys = tuple(key if "." in key else f"{section}.{key}" for key in error.keys)
            raise InputError(str(error), keys) from None
    return config_type(**sections)


def _convert(value: Any, hint: Any, *, key: str) -> Any:
    """Return the value as its key's type; raise an InputError that says what the key takes."""
    try:
        return _coerce(value, hint)
    except (TypeError, ValueError, OverflowError, RecursionError):
        text = f"{key} = {shown(value)}: must be {_describe(hint)}"
        raise InputError(text, keys=(key,)) from None


def _parse_text(text: str, hint: Any) -> Any:
    options = _options(hint)
    if types.NoneType in options and text.lower() == "none":
        return None
    if str in options or any(typing.get_origin(o) is Literal or _is_enum(o) for o in options):
        return text
    if any(typing.get_origin(o) is tuple for o in options) and not text.startswith("["):
        text = f"[{text}]"
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except _NO_TOML:
        return text


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Enum)


def _options(hint: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    return typing.get_args(hint) if is_union else (hint,)


def _coerce(value: Any, hint: Any) -> Any:
    """Return the value as `hint`; convert int to float and list to tuple, else raise TypeError."""
    options = _options(hint)
    if len(options) > 1:
        for option in options:
            try:
                return _coerce(value, option)
            except TypeError:
                continue
        raise TypeError
    if typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            raise TypeError
        return value
    if typing.get_origin(hint) is tuple:
        return _coerce_tuple(value, typing.get_args(hint))
    if _is_enum(hint):
        try:
            return hint(value)
        except ValueError:
            raise TypeError from None
    if hint is float and type(value) is int:
        value = float(value)
    if type(value) is not hint:
        raise TypeError
    return value


def _coerce_tuple(value: Any, items: tuple[Any, ...]) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError
    wanted = (items[0],) * len(value) if items[-1] is Ellipsis else items
    if len(wanted) != len(value):
        raise TypeError
    return tuple(_coerce(item, kind) for item, kind in zip(value, wanted, strict=True))


def _describe(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    names[types.NoneType] = "none"
    words = []
    for option in _options(hint):
        if typing.get_origin(option) is Literal or _is_enum(option):
            choices = list(option) if _is_enum(option) else typing.get_args(option)
            words.append("one of " + ", ".join(map(str, choices)))
        elif typing.get_origin(option) is tuple:
            items = typing.get_args(option)
            count = "" if items[-1] is Ellipsis else f"{len(items)} "
            kind = names[items[0]].removeprefix("a ")
            words.append(f"a list of {count}{kind}s")
        else:
            words.append(names[option])
    return " or ".join(words)
