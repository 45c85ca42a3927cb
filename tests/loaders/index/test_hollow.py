"""The file with a hole behaves as a file of which some bytes are always zero."""

import io

import numpy as np
import pytest

from fastdual.loaders.index.hollow import HollowFile


def parts_of(file: HollowFile) -> list[tuple[int, bytes]]:
    return [(place, bytes(part)) for place, part in file.parts()]


@pytest.mark.parametrize("hole", [(0, 7), (9, 20), (30, 0), (100, 50)])
def test_it_is_a_file_with_zeros_in_its_hole(hole: tuple[int, int]) -> None:
    start, length = hole
    ours, truth = HollowFile(start, length), io.BytesIO()
    rng = np.random.default_rng(start)
    for _ in range(400):
        position, size = (int(n) for n in rng.integers(0, 60, 2))
        if rng.random() < 0.1:
            ours.truncate(position)
            truth.truncate(position)
            truth.write(bytes(max(0, position - truth.seek(0, io.SEEK_END))))
        elif rng.random() < 0.5:
            contents = rng.bytes(size)
            for file in (ours, truth):
                file.seek(position)
                assert file.write(contents) == size and file.tell() == position + size
            inside = truth.getvalue()[start : start + length]
            truth.seek(start if inside else 0)
            truth.write(bytes(len(inside)))
        else:
            for file in (ours, truth):
                file.seek(position)
            assert ours.read(size) == truth.read(size)
        assert ours.size == len(truth.getvalue()) == ours.seek(0, io.SEEK_END)
        everything, end = truth.getvalue(), start + length
        assert parts_of(ours) == [(0, everything[:start]), (end, everything[end:])]


def test_a_hole_of_terabytes_takes_no_memory() -> None:
    file = HollowFile(4, 1 << 42)
    file.seek(1 << 42)
    file.write(b"123456")
    assert parts_of(file) == [(0, bytes(4)), ((1 << 42) + 4, b"56")]
