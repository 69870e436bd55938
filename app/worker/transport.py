"""A client's socket, plain or TLS."""

from __future__ import annotations

import select
import socket
import ssl
from typing import Final

from app.worker.protocol.request_reader import READ_SIZE
from app.worker.protocol.write_buffer import NOT_NOW

EVENTS: Final = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
"""Watched once and edge-triggered: no system call per request but reading and writing."""
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
"""An interim answer. HTTP/1.1 allows it at any time, and a client that has gone resets."""
ASK_AFTER_S: Final = 0.25
"""Seconds after which a client that has hung up is asked so whether it is there: an answer that
comes sooner needs no question before it."""

_GONE: Final = select.EPOLLHUP | select.EPOLLERR
_ENDED: Final = select.EPOLLRDHUP | _GONE


_GET: Final = b"GET "


class Transport:
    """Reads without blocking.

    `readable`: there may be bytes to read. `hung_up`: the client sends nothing more; reading to the
    end finds that out and closes the connection. `gone`: it does not read either. A client that has
    closed its socket looks as one that has closed its sending half only, until something is sent to
    it: then its system answers with a reset.
    """

    __slots__ = ("_asked", "gone", "hung_up", "readable", "sock", "tls")

    def __init__(self, sock: socket.socket) -> None:
        """`sock` does not block."""
        self.sock = sock
        self.tls = isinstance(sock, ssl.SSLSocket)
        self.readable = True
        self.hung_up = self.gone = self._asked = False

    def on_event(self, events: int) -> None:
        """Note what epoll reports."""
        if events & _ENDED:
            self.hung_up = True
            self.gone = self.gone or bool(events & _GONE)
        # TLS may have waited for a write before it can read
        if self.tls or events & (select.EPOLLIN | _ENDED):
            self.readable = True

    def may_ask(self) -> bool:
        """Whether to send something to a client that has hung up, to learn whether it is there.
        True once.
        """
        asked, self._asked = self._asked, True
        return not asked

    def shake_hands(self) -> bool:
        """Continue the TLS handshake. Returns whether it is complete; raises OSError."""
        try:
            self.sock.do_handshake()  # type: ignore[attr-defined]
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        return True

    def end_sending(self) -> bool:
        """Close the sending half. Returns False if the client is gone."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            return False
        return True

    def discard(self, reads: int) -> bool | None:
        """Drop what the client sends, in at most so many reads. Returns whether it may send more;
        None if there is more already.
        """
        for _ in range(reads):
            data = self.receive(READ_SIZE)
            if not data:
                return data is None
        return None

    def receive(self, size: int) -> bytes | None:
        """Return at most `size` bytes; None if there are none now; b"" at the end or an error."""
        try:
            data = self.sock.recv(size)
        except NOT_NOW:
            self.readable = False
            return None
        except OSError:
            return b""
        if len(data) < size and not self.tls and not self.hung_up:
            self.readable = False
        return data


def asks_to_read(sock: socket.socket) -> bool:
    """Whether a request that begins with GET is here already. The socket is not TLS."""
    try:
        return sock.recv(len(_GET), socket.MSG_PEEK) == _GET
    except OSError:
        return False
