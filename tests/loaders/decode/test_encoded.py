"""The bytes of an indexed video: the same as they were, or an error that says so."""

import hashlib
import os
from pathlib import Path

import pytest

from fastdual.errors import FailureError
from fastdual.loaders.decode.encoded import IndexedFile, PackedBytes, read_encoded
from tests.loaders.damage import flip

CONTENTS = bytes(range(256)) * 40
DIGEST = hashlib.sha256(CONTENTS).digest()
ALTERED = "the file was changed after it was indexed"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "a.mp4").write_bytes(CONTENTS)
    return tmp_path / "a.mp4"


def test_a_file_is_what_was_indexed(file: Path) -> None:
    indexed = IndexedFile(file, len(CONTENTS), DIGEST)
    indexed.check()
    assert indexed.read() == CONTENTS == read_encoded(indexed).tobytes()
    stamp = file.stat()
    flip(file, 300)
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    for use in (indexed.check, indexed.read):
        with pytest.raises(FailureError, match=ALTERED):
            use()
    file.unlink()
    with pytest.raises(OSError, match="No such file"):
        indexed.check()


def test_a_file_that_grew_is_noticed_before_it_is_read(file: Path) -> None:
    with open(file, "ab") as opened:
        opened.write(b"more")
    with pytest.raises(FailureError, match=ALTERED):
        IndexedFile(file, len(CONTENTS), DIGEST).check()


def test_bytes_of_a_pack_are_those_at_their_place(tmp_path: Path) -> None:
    pack = tmp_path / "p.h5"
    pack.write_bytes(b"before" + CONTENTS + b"behind")
    packed = PackedBytes(pack, 6, len(CONTENTS), DIGEST, ".avi")
    assert packed.read() == CONTENTS
    with packed.open() as opened:
        assert (opened.read(), opened.name) == (CONTENTS, "video.avi")
    flip(pack, 100)
    with pytest.raises(FailureError, match=r"p\.h5 were altered: pack it again"):
        packed.read()
    os.truncate(pack, 100)
    with pytest.raises(FailureError, match="is truncated: this video is not all there"):
        packed.read()
    pack.unlink()
    with pytest.raises(FailureError, match=r"the pack .*p\.h5 cannot be read: No such file"):
        packed.read()
