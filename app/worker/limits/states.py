"""What a connection waits for."""

from __future__ import annotations

import enum
from typing import Final

LINGER_S: Final = 2.0
"""Seconds for which data is discarded after the last answer. To close at once would reset the
connection, and the client might not see the answer."""


class State(enum.Enum):
    """What a connection waits for."""

    HANDSHAKE = "the TLS handshake"
    HEAD = "a request's head; idle before its first byte"
    BODY = "the rest of a body"
    RUNNING = "the application, here or in the pool"
    SUSPENDED = "a pending result"
    WRITING = "the client to read its answer"
    LINGERING = "the client to close; its data is discarded"
    CLOSED = "nothing: the socket is closed"
