"""A TCP proxy that can be cut, hang, or be slow: the network between two processes, to be broken on purpose.

Strategy: a thread for each direction of each connection, and one that accepts. What goes on is one value, `mode`, that
every thread looks at before it passes on what it read; so a change holds for open connections as well as for new ones.
Half of a connection that was shut down is shut down on the other side too, and its other half goes on.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from typing import Literal

__all__ = ["Mode", "Proxy"]

Mode = Literal["open", "cut", "hang", "slow"]

_HOST = "127.0.0.1"
_CHUNK_BYTES = 65_536
# Enough for heartbeats and little else.
_SLOW_CHUNK_BYTES, _SLOW_DELAY_S = 4_096, 0.1
_LOOK_S = 0.05
_CONNECT_S = 5.0
# Closing then resets the connection, instead of an orderly end.
_RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Listens on a port of its own and passes on to another; a context manager.

    Args:
        port: Where the server is, on loopback. May be changed at any time: it counts for new connections.
    """

    def __init__(self, port: int = 0) -> None:
        self.target = port
        self.passed_bytes = 0
        """How much came through, both ways together: whether the traffic really runs here."""
        self._mode: Mode = "open"
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._listening = socket.create_server((_HOST, 0), backlog=128)
        self._listening.settimeout(_LOOK_S)
        self.port: int = self._listening.getsockname()[1]
        """Where it listens."""
        threading.Thread(target=self._accept, name=f"proxy-{self.port}", daemon=True).start()

    @property
    def mode(self) -> Mode:
        """What happens to the bytes now."""
        return self._mode

    def set(self, mode: Mode) -> None:
        """Breaks the network in this way, or mends it (`open`)."""
        self._mode = mode
        if mode == "cut":
            self._reset_all()

    def close(self) -> None:
        """Ends all connections and listens no more."""
        self._closing.set()
        self._listening.close()
        self._reset_all()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                client, _ = self._listening.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        client.settimeout(None)
        server = self._reach() if self._wait_while_hanging() and self._mode != "cut" else None
        if server is None:
            _reset(client)
            client.close()
            return
        server.settimeout(None)
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._open.update((client, server))
        if self._mode == "cut":  # meanwhile
            self._reset_all()
        back = threading.Thread(target=self._pass, args=(server, client), daemon=True)
        back.start()
        self._pass(client, server)
        back.join()
        with self._lock:
            self._open -= {client, server}
        client.close()
        server.close()

    def _reach(self) -> socket.socket | None:
        try:
            return socket.create_connection((_HOST, self.target), _CONNECT_S)
        except OSError:
            return None

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        """One direction, until its end."""
        try:
            while chunk := source.recv(_SLOW_CHUNK_BYTES if self._mode == "slow" else _CHUNK_BYTES):
                self._send(sink, chunk)
            self._wait_while_hanging()
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            # A connection that broke on one side is broken on the other.
            for end in (source, sink):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _send(self, sink: socket.socket, chunk: bytes) -> None:
        at = 0
        while at < len(chunk):
            if not self._wait_while_hanging():
                raise ConnectionAbortedError
            piece = chunk[at : at + (_SLOW_CHUNK_BYTES if self._mode == "slow" else _CHUNK_BYTES)]
            if self._mode == "slow":
                time.sleep(_SLOW_DELAY_S)
            sink.sendall(piece)
            self.passed_bytes += len(piece)
            at += len(piece)

    def _wait_while_hanging(self) -> bool:
        """Returns whether it goes on at all."""
        while self._mode == "hang" and not self._closing.is_set():
            time.sleep(_LOOK_S)
        return not self._closing.is_set()

    def _reset_all(self) -> None:
        with self._lock:
            held, self._open = self._open, set()
        for end in held:
            _reset(end)


def _reset(end: socket.socket) -> None:
    """Breaks a connection and wakes whoever is blocked on it, who closes it: its number must not be used again before.

    What the peer still sends, or is still to get, is thrown away.
    """
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
