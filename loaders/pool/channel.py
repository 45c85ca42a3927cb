"""Messages between two processes: pickled objects over a socket, a file descriptor along with one.

Big arrays do not go through the socket; see `pool.memory`.
"""

from __future__ import annotations

import array
import pickle
import socket
import struct
from typing import Any

_HEADER = struct.Struct("<QI")  # length of the pickle, 1 if a file descriptor comes along


class ChannelClosed(ConnectionError):
    """The other process is gone."""


class Channel:
    """One end of a socket pair; each `receive` returns exactly what one `send` was given."""

    def __init__(self, endpoint: socket.socket) -> None:
        self._socket = endpoint

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: Any, *, descriptor: int | None = None) -> None:
        """Send one object.

        Args:
            message: Anything that can be pickled.
            descriptor: A file descriptor to send with it.

        Raises:
            ChannelClosed: The other process is gone.
        """
        body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        header = _HEADER.pack(len(body), descriptor is not None)
        rights = []
        if descriptor is not None:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
        try:
            sent = self._socket.sendmsg([header], rights)
            self._socket.sendall(header[sent:])
            self._socket.sendall(body)
        except OSError as error:
            raise ChannelClosed(str(error)) from error

    def receive(self) -> tuple[Any, int | None]:
        """Return the next object and the descriptor sent with it; the caller closes that.

        Raises:
            ChannelClosed: The other process is gone.
        """
        try:
            header, descriptors, _, _ = socket.recv_fds(self._socket, _HEADER.size, 1)
            if not header:
                raise ChannelClosed("end of stream")
            header += self._read(_HEADER.size - len(header))
            length, _ = _HEADER.unpack(header)
            return pickle.loads(self._read(length)), (descriptors[0] if descriptors else None)
        except OSError as error:
            raise ChannelClosed(str(error)) from error

    def _read(self, length: int) -> bytes:
        chunks: list[bytes] = []
        while length:
            chunk = self._socket.recv(min(length, 1 << 20))
            if not chunk:
                raise ChannelClosed("end of stream")
            chunks.append(chunk)
            length -= len(chunk)
        return b"".join(chunks)

    def close(self) -> None:
        self._socket.close()
