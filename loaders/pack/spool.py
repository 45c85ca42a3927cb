"""What a pack that is being made has so far: spool files with the bytes, and a journal of them.

`OUT.partial.jsonl` names one packed video a line, in the order in which they lie in `OUT.partial`
(or in the spools of its shards). A pack that was stopped goes on after the last video that is
wholly there; a video that failed is in no journal, so that it gets another try.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from contextlib import ExitStack
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fastdual.errors import FailureError, InputError
from fastdual.loaders.decode.encoded import PackedBytes


@dataclass(frozen=True)
class Record:
    """A packed video: its path in the index, its bytes, and what a probe of them found.

    `facts` is None where the bytes are the source's; otherwise its keys are `size`, `codec` and
    `keyframes` (frames, pts, offsets).
    """

    path: str
    length: int
    sha256: str
    facts: dict[str, Any] | None


class Layout:
    """Puts videos one after the other into shards: a new one where the limit would be passed."""

    def __init__(self, shard_bytes: int | None) -> None:
        self._limit = shard_bytes
        self.lengths = [0]

    def place(self, length: int) -> tuple[int, int]:
        """Return (shard number, offset) for the next video."""
        if self._limit is not None and 0 < self.lengths[-1] > self._limit - length:
            self.lengths.append(0)
        offset = self.lengths[-1]
        self.lengths[-1] += length
        return len(self.lengths) - 1, offset


class Spool:
    """The journal and the spool files of one pack; a context manager that locks them.

    Args:
        output: The pack to be.
        identity: What decides the bytes; a journal of another identity is thrown away.
        start: Where the data begin in a file.
        shard_bytes: Limit of a shard; None for one file.

    Raises:
        InputError: Another process is packing to the same output, or there are shards of another.
    """

    def __init__(
        self, output: Path, identity: dict[str, Any], start: int, shard_bytes: int | None
    ) -> None:
        self._output, self._identity, self._start = output, identity, start
        self._shard_bytes = shard_bytes
        self._layout = Layout(shard_bytes)
        self._journal_path = output.with_name(f"{output.name}.partial.jsonl")
        self._data = -1
        self.records: list[Record] = []
        self.places: list[tuple[int, int]] = []

    def __enter__(self) -> Self:
        self._output.parent.mkdir(parents=True, exist_ok=True)
        self._journal = self._lock()
        try:
            if self._output.exists():
                self.discard()
                raise InputError(f"{self._output} was finished by another process just now")
            self._recover()
        except BaseException:
            self._journal.close()
            raise
        return self

    def _lock(self) -> FileIO:
        """Open the journal for this process alone: anew, if its owner removed it meanwhile."""
        while True:
            with ExitStack() as stack:
                journal = stack.enter_context(open(self._journal_path, "a+b", buffering=0))
                try:
                    fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    message = f"{self._output} is being packed by another process"
                    raise InputError(message) from error
                if _is_file_at(journal, self._journal_path):
                    stack.pop_all()  # it stays open
                    return journal

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._data >= 0:
            os.close(self._data)
        self._journal.close()

    @property
    def shard_lengths(self) -> list[int]:
        """Bytes of data in each shard so far."""
        return list(self._layout.lengths)

    def shard_file(self, shard: int) -> Path:
        """What the file of a shard will be called; without a limit it is the pack itself."""
        if self._shard_bytes is None:
            return self._output
        return self._output.with_name(f"{self._output.stem}-{shard:05d}{self._output.suffix}")

    def spool_file(self, shard: int) -> Path:
        """The unfinished file of a shard."""
        final = self.shard_file(shard)
        return final.with_name(f"{final.name}.partial")

    def append(self, path: str, contents: bytes, facts: dict[str, Any] | None) -> None:
        """Add a video: first its bytes, then its line in the journal. Raises OSError."""
        record = Record(path, len(contents), hashlib.sha256(contents).hexdigest(), facts)
        shard = len(self._layout.lengths) - 1
        place = self._layout.place(record.length)
        if self._data < 0 or place[0] != shard:
            self._open_data(place[0])
        _write_at(self._data, contents, self._start + place[1])
        self._write_line(vars(record))
        self.records.append(record)
        self.places.append(place)

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
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._data = os.open(self.spool_file(shard), flags, 0o644)

    # ---- going on with what was stopped

    def _recover(self) -> None:
        """Take over what the journal names, up to what is torn, missing or of another pack."""
        self._journal.seek(0)
        first, *lines = self._journal.readall().split(b"\n")
        length = 0
        if lines and _parse(first) == self._identity:
            length = len(first) + 1
            for line in lines[:-1]:
                record = _to_record(_parse(line))
                if record is None or not self._take(record):
                    break
                length += len(line) + 1
        elif self._shard_bytes is not None and self.shard_file(0).exists():
            raise InputError(f"{self.shard_file(0)} exists: delete it, or choose another name")
        self._journal.truncate(length)
        if length == 0:
            self._write_line(self._identity)
        self._forget_the_rest()

    def _take(self, record: Record) -> bool:
        """Take a video of the journal over if its bytes are there."""
        layout = Layout(self._shard_bytes)
        layout.lengths = list(self._layout.lengths)
        shard, offset = layout.place(record.length)
        # A finished shard was synced: no need to read it.
        if not self.shard_file(shard).exists() and not self._is_spooled(record, shard, offset):
            return False
        self._layout = layout
        self.records.append(record)
        self.places.append((shard, offset))
        return True

    def _is_spooled(self, record: Record, shard: int, offset: int) -> bool:
        spool, begin = self.spool_file(shard), self._start + offset
        try:
            if os.stat(spool).st_size < begin + record.length:
                return False
            PackedBytes(spool, begin, record.length, bytes.fromhex(record.sha256), "").read()
        except (OSError, FailureError):
            return False
        return True

    def _forget_the_rest(self) -> None:
        """Cut the spools off after what was taken over."""
        last = len(self._layout.lengths) - 1
        finished, spool = self.shard_file(last), self.spool_file(last)
        if finished.exists():  # it may get more videos: it is a spool again
            os.replace(finished, spool)
        if spool.exists():
            os.truncate(spool, self._start + self._layout.lengths[-1])
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


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None  # the last line of a pack that was killed may be torn


def _to_record(line: Any) -> Record | None:
    try:
        record = Record(**line)
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
