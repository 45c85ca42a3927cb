"""Packets that show a picture again are known from their first bits."""

from pathlib import Path

import pytest

from fastdual.loaders.index.probe import examine_file
from fastdual.loaders.index.repeats import shows_again
from tests.loaders.clips import encode

# VP9: two bits 10, two of the profile (one more for profile 3), then the bit.
SHOWN, AGAIN = b"\x82\x49\x83", b"\x88"


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (SHOWN, False),
        (AGAIN, True),
        (b"\x8c", True),
        (b"\xb0\x00", False),  # profile 3
        (b"\xb4\x00", True),
        (b"\x08", False),  # no VP9
        (b"", False),
        (b"\xc8", False),  # a marker of an index that is not there
        (SHOWN + AGAIN + b"\xc1\x03\x01\xc1", True),  # a superframe of both
        (SHOWN + SHOWN + b"\xc1\x03\x03\xc1", False),
        (SHOWN + AGAIN + b"\xc9\x03\x00\x01\x00\xc9", True),  # sizes of two bytes
    ],
)
def test_vp9(packet: bytes, expected: bool) -> None:
    assert shows_again("vp9", packet) == expected


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (b"\x12\x00" + b"\x1a\x01\x80", True),  # delimiter, frame header with the bit
        (b"\x12\x00" + b"\x1a\x01\x40", False),
        (b"\x12\x00" + b"\x32\x02\x80\x80", False),  # a frame cannot show another
        (b"\x1e\x00\x01\x80", True),  # with an extension byte
        (b"\x32\x81\x01" + b"\x80" * 129 + b"\x1a\x01\x80", True),  # a size of two bytes
        (b"\x18\x80", True),  # the last unit may leave its size out
        (b"\x1a\x05", False),  # torn
        (b"", False),
    ],
)
def test_av1(packet: bytes, expected: bool) -> None:
    assert shows_again("av1", packet) == expected


def test_a_real_encoder_of_av1_shows_pictures_again(tmp_path: Path) -> None:
    """The hidden ends of its pyramids; decoders that know it get every frame."""
    found = examine_file(encode(tmp_path / "a.mp4", 40, codec="libsvtav1", height=96, width=128))
    assert found.num_frames == found.num_packets == 40 and 0 < found.num_repeats < 40


def test_a_video_without_hidden_pictures_has_none(tmp_path: Path) -> None:
    found = examine_file(encode(tmp_path / "a.webm", 20, codec="libvpx-vp9"))
    assert (found.codec, found.num_repeats) == ("vp9", 0)
