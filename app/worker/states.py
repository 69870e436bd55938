"""What a connection waits for, how long, and how much it may hold meanwhile."""

from __future__ import annotations

import enum
import threading
from typing import Any, Final

from typing_extensions import override
from werkzeug.exceptions import HTTPException

HEAD_S: Final = 10.0
"""Seconds for a request's line and headers, from their first byte, and for a TLS handshake."""
BODY_S: Final = 30.0
"""Seconds without one byte of a body that has begun."""
WRITE_S: Final = 30.0
"""Seconds for which a client reads nothing of its answer."""
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


MAX_BYTES_IN_FLIGHT: Final = 256 * 1024 * 1024
"""Bytes, where the application has no budget of its own."""

SMALL: Final = 64 * 1024
"""Bytes of a body that may use the last eighth of the budget: large bodies leave it to them."""


class ByteBudget:
    """The bytes that one process holds for its clients: bodies, and answers that were not sent.

    Any thread may use it; `_lock` guards `held`.
    """

    def __init__(self, limit: int = MAX_BYTES_IN_FLIGHT) -> None:
        self.limit = limit
        self.held = 0
        self._lock = threading.Lock()

    def grow(self, size: int, whole: int) -> bool:
        """Take `size` bytes more, of `whole` bytes that will be held together. Returns False, and
        takes none, if there is no room for them.
        """
        limit = self.limit if whole <= SMALL else self.limit - self.limit // 8
        with self._lock:
            if size > 0 and self.held + size > limit:
                return False
            self.held += size
        return True

    def add(self, size: int) -> None:
        """Take bytes that exist already, or give back with a negative size."""
        with self._lock:
            self.held += size


class LimitExceeded(HTTPException):
    """A request goes beyond a limit, and is answered with `code`."""

    def __init__(self, limit: str, code: int, problem: str) -> None:
        """`limit` is its name in the configuration."""
        super().__init__(problem)
        self.limit = limit
        self.code = code

    @override
    def get_headers(self, environ: Any = None, scope: Any = None) -> list[tuple[str, str]]:
        """With a time after which the client may try again, if that makes sense."""
        more = [("Retry-After", "1")] if self.code == NO_ROOM else []
        return [*super().get_headers(environ, scope), *more]


NO_ROOM: Final = 503


def no_room(budget: ByteBudget) -> LimitExceeded:
    """There is no room for a body."""
    text = f"no room for this body now: limits.max_bytes_in_flight is {budget.limit}"
    return LimitExceeded("max_bytes_in_flight", NO_ROOM, text)
