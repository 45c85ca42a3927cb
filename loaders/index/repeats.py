"""Packets of VP9 and AV1 that decode no picture but show one that was decoded before.

Both formats call it `show_existing_frame`, one bit at the start of a frame's header (VP9 bitstream
specification 6.2, AV1 5.9.2). A decoder that takes one new picture for each packet loses count.
"""

from collections.abc import Iterator

REPEATING = ("vp9", "av1")
"""The formats that have such packets, by libav's names."""

_AV1_FRAME_HEADER = 3


def shows_again(codec: str, packet: bytes) -> bool:
    """Say whether a packet holds a frame header that shows a picture again.

    Args:
        codec: One of `REPEATING`.
        packet: Its bytes.
    """
    if codec == "vp9":
        return any(_vp9_shows_again(frame) for frame in _vp9_frames(packet))
    return any(payload[:1] >= b"\x80" for payload in _av1_frame_headers(packet))


def _vp9_frames(packet: bytes) -> Iterator[bytes]:
    """Yield the frames of a packet: itself, or those of a superframe by the index at its end."""
    marker = packet[-1] if packet else 0
    count, width = (marker & 7) + 1, (marker >> 3 & 3) + 1
    index = packet[-(2 + count * width) :]
    if marker >> 5 != 0b110 or len(index) != 2 + count * width or index[0] != marker:
        yield packet
        return
    start = 0
    for place in range(1, 1 + count * width, width):
        length = int.from_bytes(index[place : place + width], "little")
        yield packet[start : start + length]
        start += length


def _vp9_shows_again(frame: bytes) -> bool:
    if not frame or frame[0] >> 6 != 0b10:
        return False
    is_profile_3 = frame[0] & 0b110000 == 0b110000  # it has one bit more before ours
    return bool(frame[0] & (0b100 if is_profile_3 else 0b1000))


def _av1_frame_headers(packet: bytes) -> Iterator[bytes]:
    """Yield the payloads of the frame headers among the units (OBUs) of a packet."""
    place = 0
    while place < len(packet):
        header = packet[place]
        place += 2 if header & 0b100 else 1
        length = len(packet) - place
        if header & 0b10:
            length = shift = 0
            while place < len(packet):
                byte = packet[place]
                length |= (byte & 0x7F) << shift
                place, shift = place + 1, shift + 7
                if byte < 0x80 or shift > 56:
                    break
        if header >> 3 & 15 == _AV1_FRAME_HEADER:
            yield packet[place : place + length]
        place += length
