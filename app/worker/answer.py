"""The response that gunicorn writes, with what it says every time said sooner.

May touch: gunicorn's response.
"""

from __future__ import annotations

import time
from typing import Any

from gunicorn import util
from gunicorn.http.wsgi import Response


class _Date:
    """The `Date` header, which changes once a second and took 8 us to write each time."""

    def __init__(self) -> None:
        self._second = 0
        self._written = ""

    def __call__(self) -> str:
        second = int(time.time())
        if second != self._second:
            # in this order: another thread that sees the new second may write the old date
            self._written = util.http_date(second)
            self._second = second
        return self._written


_date = _Date()


class Answer(Response):  # type: ignore[misc]
    """Gunicorn's, but for the lines that do not depend on the application."""

    def default_headers(self) -> list[Any]:
        """The status line and the server's own headers, as gunicorn writes them."""
        stays = "close" if self.should_close() else "keep-alive"
        connection = "upgrade" if self.upgrade else stays
        major, minor = self.req.version
        lines = [
            f"HTTP/{major}.{minor} {self.status}\r\n",
            f"Server: {self.version}\r\nDate: {_date()}\r\nConnection: {connection}\r\n",
        ]
        if self.chunked:
            lines.append("Transfer-Encoding: chunked\r\n")
        return lines
