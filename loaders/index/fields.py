"""What the file of an index and that of a pack both hold: all that is known of the videos."""

from typing import Any

from fastdual.loaders.index.hdf5 import Tables, write_texts
from fastdual.loaders.index.table import VideoIndex
from fastdual.loaders.index.video import COLUMNS, KEYFRAMES

# In the order in which they lie in a file.
_LATER = {c.name: c for c in COLUMNS if c.later}
_TEXTS = (
    "paths",
    "codecs",
    "class_names",
    "groups",
    *(n for n, c in _LATER.items() if not c.dtype),
)
_ARRAYS = (*(c.name for c in COLUMNS if c.dtype), "keyframe_offsets", *KEYFRAMES)


def write_fields(file: Any, index: VideoIndex) -> None:
    """Put an index into an open HDF5 file: all but where its videos lie.

    What nothing is known of is left out, so that old files are written as they were.
    """
    blank = set() if any(index.pixel_formats) else _LATER.keys()
    file.attrs["fingerprint"] = index.fingerprint
    file.attrs["probed_by"] = index.probed_by
    for name in _TEXTS:
        if name not in blank:
            write_texts(file, name, getattr(index, name))
    for name in _ARRAYS:
        if name not in blank:
            file[name] = getattr(index, name)
    splits = sorted(index.splits)
    write_texts(file, "splits", splits)
    for number, name in enumerate(splits):
        file[f"splits/{number}"] = index.splits[name]
    write_texts(file, "quarantine/paths", [path for path, _ in index.quarantine])
    write_texts(file, "quarantine/reasons", [reason for _, reason in index.quarantine])
    file["quarantine/stamps"] = index.quarantine_stamps


def read_fields(file: Any, tables: Tables) -> dict[str, Any]:
    """Return what `write_fields` wrote: the fields of `VideoIndex` but `root` and `packed`.

    An older fastdual wrote fewer columns; those that are missing are returned blank.

    Raises:
        KeyError, ValueError: As `Tables` does.
    """
    missing = _LATER.keys() - set(file)
    values: dict[str, Any] = {n: tables.texts(n) for n in _TEXTS if n not in missing}
    values |= {name: tables.array(name) for name in _ARRAYS if name not in missing}
    values |= {name: _LATER[name].blank(len(values["paths"])) for name in missing}
    names = tables.texts("splits")
    values["splits"] = {name: tables.array(f"splits/{n}") for n, name in enumerate(names)}
    paths, reasons = tables.texts("quarantine/paths"), tables.texts("quarantine/reasons")
    values["quarantine"] = tuple(zip(paths, reasons, strict=True))
    values["quarantine_stamps"] = tables.array("quarantine/stamps")
    values["probed_by"] = str(file.attrs["probed_by"])
    return values
