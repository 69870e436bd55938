"""One kept-alive connection: bytes out, answers in. It tells the load what happened, no more.

May touch: asyncio, httptools (llhttp, the parser of Node.js).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import httptools

from app.bench.load import Load
from app.bench.tally import Failure


class Connection(asyncio.Protocol):
    """A `Link`. The parser calls back when an answer is complete; nothing else is looked at."""

    def __init__(self, load: Load, clock: Callable[[], float]) -> None:
        self.busy = False
        self.intended = 0.0
        self.shot = 0
        self._load = load
        self._clock = clock
        self._parser = httptools.HttpResponseParser(self)

    def send(self, request: bytes) -> None:
        """Write one whole request."""
        self._transport.write(request)

    def abort(self) -> None:
        """Close it at once, whatever is on its way."""
        self._transport.abort()

    # --- what the event loop says ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast("asyncio.WriteTransport", transport)
        self._load.opened(self, self._clock())

    def data_received(self, data: bytes) -> None:
        """Some part of an answer."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._load.lost(self, Failure.GARBAGE, self._clock())

    def connection_lost(self, error: Exception | None) -> None:
        """It is gone. The load knows already where it was the one who closed it."""
        failure = Failure.CLOSED if error is None else Failure.RESET
        self._load.lost(self, failure, self._clock())

    # --- what the parser says ---

    def on_message_complete(self) -> None:
        """A whole answer. One below 200 only announces another."""
        parser = self._parser
        status = parser.get_status_code()
        if status >= 200:  # noqa: PLR2004  # informational, in HTTP's words
            reusable = parser.should_keep_alive()
            self._load.answered(self, status, self._clock(), reusable=reusable)
