"""What a pack that is being made has so far: spool files with the bytes, and a journal of them.

    OUT.partial.jsonl                     OUT.partial (or a spool per shard)
    {"source": ..., "settings": ...}      (room for the header and the first tables)
    {"path": "a.mp4", "length": 700 ...}  700 bytes
    {"path": "b.mp4", "length": 450 ...}  450 bytes
    {"path": "c.m                         half of the next video: cut off when the pack continues

A pack that was stopped continues after the last video that is whole. A video that failed is in no
journal, so that it gets another try.
"""

import hashlib
import json
import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from typing import Any, Self

from fastdual.errors import FailureError, InputError
from fastdual.loaders.decode.encoded import PackedBytes
from fastdual.loaders.decode.keyframes import Keyframes
from fastdual.loaders.files import lock, parse_line, regular
from fastdual.loaders.index.video import COLUMNS, Video

_FACTS = ("codec", "rotation", *(column.attribute for column in COLUMNS if column.later))


@dataclass(frozen=True)
class Record:
    """A packed video, as a line of the journal states it.

    Attributes:
        path: Its path in the index.
        length: Its bytes.
        sha256: Their checksum, in hexadecimal.
        facts: What else the pack says of them; None where that is what the index says.
    """

    path: str
    length: int
    sha256: str
    facts: dict[str, Any] | None

    @classmethod
    def of(cls, path: str, contents: bytes, made: Video | None) -> Self:
        """Return the line for some bytes; `made` is what they hold if they were examined."""
        facts = None
        if made is not None:
            facts = {name: getattr(made, name) for name in _FACTS}
            facts |= {"size": list(made.size), "keyframes": made.keyframes.to_lists()}
        return cls(path, len(contents), hashlib.sha256(contents).hexdigest(), facts)

    def of_pack(self, video: Video) -> Video:
        """Return what the pack says of a video, given what the index that is packed says."""
        packed = replace(video, file_bytes=self.length, sha256=bytes.fromhex(self.sha256))
        if self.facts is None:
            return packed
        size, keyframes = tuple(self.facts["size"]), Keyframes.of(self.facts["keyframes"])
        known = {name: self.facts[name] for name in _FACTS if name in self.facts}
        known |= {"size": size, "keyframes": keyframes}
        return replace(packed, **{"rotation": 0, **known})


class Spool:
    """The journal and the spool files of one pack; a context manager that locks them.

    Args:
        output: The pack to be.
        identity: What decides the bytes, as plain values; a journal of another is thrown away.
        start: Where the data begin in a file.
        shard_bytes: Limit of a shard; None for one file.

    Attributes:
        output, start: The arguments.
        shard_lengths: Bytes of data in each shard so far.
        videos: What is packed so far, in its order, and (shard number, offset from `start`).

    Raises:
        InputError: Another process is packing to the same output, or there are shards of another.
    """

    def __init__(
        self, output: Path, identity: dict[str, Any], start: int, shard_bytes: int | None
    ) -> None:
        self.output, self.start = output, start
        self._identity = identity
        self._shard_bytes = shard_bytes
        self._journal_path = output.with_name(f"{output.name}.partial.jsonl")
        self._data = -1
        self.shard_lengths = [0]
        self.videos: list[tuple[Record, tuple[int, int]]] = []

    def __enter__(self) -> Self:
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self._journal = self._lock()
        try:
            if self.output.exists():
                self.discard()
                raise InputError(f"{self.output} was finished by another process just now")
            self._recover()
        except BaseException:
            self._journal.close()
            raise
        return self

    def _lock(self) -> FileIO:
        """Open the journal for this process alone; again, if its owner removed it meanwhile."""
        while True:
            with ExitStack() as stack:
                opened = open(self._journal_path, "a+b", buffering=0, opener=regular)  # noqa: SIM115
                journal = stack.enter_context(opened)
                if not lock(journal, wait=False):
                    raise InputError(f"{self.output} is being packed by another process")
                if _is_file_at(journal, self._journal_path):
                    stack.pop_all()  # it stays open
                    return journal

    def __exit__(self, *error: object) -> None:
        if self._data >= 0:
            os.close(self._data)
        self._journal.close()

    def shard_file(self, shard: int) -> Path:
        """Return what the file of a shard will be called; without a limit it is the pack itself."""
        if self._shard_bytes is None:
            return self.output
        return self.output.with_name(f"{self.output.stem}-{shard:05d}{self.output.suffix}")

    def spool_file(self, shard: int) -> Path:
        """Return the unfinished file of a shard."""
        final = self.shard_file(shard)
        return final.with_name(f"{final.name}.partial")

    def append(self, path: str, contents: bytes, made: Video | None) -> None:
        """Add a video: first its bytes, then its line in the journal.

        Args:
            path: Its path in the index.
            contents: Its bytes.
            made: What they hold, if they were re-encoded.

        Raises:
            OSError: They cannot be written.
        """
        record = Record.of(path, contents, made)
        shard, offset = self._next_place(record.length)
        if self._data < 0 or shard == len(self.shard_lengths):
            self._open_data(shard)
        _write_at(self._data, contents, self.start + offset)
        self._write_line(vars(record))
        self._add(record, (shard, offset))

    def _next_place(self, length: int) -> tuple[int, int]:
        """Where the next video goes: behind the last, in a new shard if it would pass the limit."""
        shard, end = len(self.shard_lengths) - 1, self.shard_lengths[-1]
        is_full = self._shard_bytes is not None and 0 < end > self._shard_bytes - length
        return (shard + 1, 0) if is_full else (shard, end)

    def _add(self, record: Record, place: tuple[int, int]) -> None:
        shard, offset = place
        self.shard_lengths[shard:] = [offset + record.length]
        self.videos.append((record, place))

    def discard(self) -> None:
        """Remove the journal of a pack that is finished."""
        self._journal_path.unlink(missing_ok=True)

    def _write_line(self, value: dict[str, Any]) -> None:
        line = memoryview(json.dumps(value).encode() + b"\n")
        while line:
            line = line[self._journal.write(line) :]

    def _open_data(self, shard: int) -> None:
        if self._data >= 0:
            os.close(self._data)
        self._data = regular(str(self.spool_file(shard)), os.O_RDWR | os.O_CREAT)

    # ---- continuing with what was stopped

    def _recover(self) -> None:
        """Take over what the journal names, up to what is torn, missing or of another pack."""
        self._journal.seek(0)
        first, *lines = self._journal.readall().split(b"\n")
        length = 0
        if lines and parse_line(first) == self._identity:
            length = len(first) + 1
            for line in lines[:-1]:
                record = _to_record(parse_line(line))
                if record is None:
                    break
                shard, offset = self._next_place(record.length)
                # A finished shard was synced: no need to read it.
                is_finished = self.shard_file(shard).exists()
                if not is_finished and not self._is_spooled(record, shard, offset):
                    break
                self._add(record, (shard, offset))
                length += len(line) + 1
        elif self._shard_bytes is not None and self.shard_file(0).exists():
            raise InputError(f"{self.shard_file(0)} exists: delete it, or choose another name")
        self._journal.truncate(length)
        if length == 0:
            self._write_line(self._identity)
        self._forget_the_rest()

    def _is_spooled(self, record: Record, shard: int, offset: int) -> bool:
        spool, begin = self.spool_file(shard), self.start + offset
        try:
            if os.stat(spool).st_size < begin + record.length:
                return False
            PackedBytes(spool, begin, record.length, bytes.fromhex(record.sha256), "").read()
        except (OSError, FailureError):
            return False
        return True

    def _forget_the_rest(self) -> None:
        """Cut the spools off after what was taken over."""
        last = len(self.shard_lengths) - 1
        finished, spool = self.shard_file(last), self.spool_file(last)
        if finished.exists():  # it may get more videos: it is a spool again
            os.replace(finished, spool)
        if os.path.lexists(spool):
            with open(spool, "r+b", opener=regular) as file:
                file.truncate(self.start + self.shard_lengths[-1])
        later = last + 1
        while self._shard_bytes is not None and (
            self.shard_file(later).exists() or self.spool_file(later).exists()
        ):
            self.shard_file(later).unlink(missing_ok=True)
            self.spool_file(later).unlink(missing_ok=True)
            later += 1


def _is_file_at(file: FileIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _to_record(line: dict[str, Any] | None) -> Record | None:
    try:
        record = Record(**(line or {}))
        is_length = isinstance(record.length, int) and record.length > 0
        sound = is_length and len(bytes.fromhex(record.sha256)) == 32
    except (TypeError, ValueError):
        return None
    return record if sound else None


def _write_at(descriptor: int, contents: bytes, offset: int) -> None:
    view = memoryview(contents)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
