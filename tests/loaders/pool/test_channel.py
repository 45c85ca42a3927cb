"""Messages arrive whole, with their descriptors, and a process that is gone is noticed."""

import os
import socket
import threading

import pytest

from fastdual.loaders.pool.channel import Channel, ChannelClosed


def pair() -> tuple[Channel, Channel]:
    one, other = socket.socketpair()
    return Channel(one), Channel(other)


def test_each_receive_returns_what_one_send_was_given() -> None:
    ours, theirs = pair()
    messages = [None, {"a": (1, 2)}, b"x" * 5_000_000, "end"]
    sender = threading.Thread(target=lambda: [ours.send(message) for message in messages])
    sender.start()
    assert [theirs.receive() for _ in messages] == [(message, None) for message in messages]
    sender.join()


def test_a_descriptor_comes_with_its_message() -> None:
    ours, theirs = pair()
    read, write = os.pipe()
    ours.send("without")
    ours.send("with", descriptor=write)
    os.close(write)
    assert theirs.receive() == ("without", None)
    message, descriptor = theirs.receive()
    assert message == "with" and descriptor is not None
    os.write(descriptor, b"through")
    os.close(descriptor)
    assert os.read(read, 100) == b"through"
    os.close(read)


def test_a_closed_end_is_noticed_by_the_other() -> None:
    ours, theirs = pair()
    ours.close()
    with pytest.raises(ChannelClosed):
        theirs.receive()
    with pytest.raises(ChannelClosed):
        theirs.send("x")
    ours, theirs = pair()
    ours.send("whole")
    ours.close()
    assert theirs.receive() == ("whole", None)
