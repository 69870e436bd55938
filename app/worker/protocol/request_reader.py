"""Splits the bytes that one client sends into requests."""

from __future__ import annotations

from typing import Any, Final

from gunicorn.http.message import Request

from app.worker.protocol.bodies import ChunkedBody, SizedBody, TooLong
from app.worker.protocol.head_cache import Head, HeadCache
from app.worker.protocol.read_buffer import Incomplete, ReadBuffer

READ_SIZE: Final = 64 * 1024
"""Bytes per read while a head is expected."""


class RequestReader:
    """`next_head` until there is one; then `body` until it is complete; then `next_request`."""

    __slots__ = ("_cache", "_longest_body", "_number", "_server", "address", "body", "buffer")

    def __init__(self, cache: HeadCache, longest_body: int, address: Any, server: Any) -> None:
        """`longest_body` is in bytes; `server` is the address that the client connected to."""
        self._cache = cache
        self._longest_body = longest_body
        self.address = address
        self._server = server
        self._number = 0
        self.buffer = ReadBuffer()
        self.body: SizedBody | ChunkedBody | None = None

    @property
    def wanted(self) -> int:
        """Bytes to ask the socket for."""
        return READ_SIZE if self.body is None else self.body.wanted

    def feed(self, data: bytes) -> None:
        """Take received bytes."""
        self.buffer.feed(data)
        if self.body is not None:
            self.body.feed(data)

    def next_head(self) -> tuple[Head, Request] | None:
        """Return the next request without its body, or None as long as its head is incomplete.

        Raises what gunicorn's parser raises, also for the beginning of an invalid head.
        """
        buffer, cache = self.buffer, self._cache
        first = buffer.head()
        if first is None:
            if not buffer.is_refused_already(cache.cfg):
                return None
            head = None
        else:
            head = cache.find(first, self.address, self._server)
        if head is not None and first is not None:
            buffer.take(len(first))
        else:
            head = self._parse(first)
            if head is None:
                return None
        self._number += 1
        self.body = head.body(buffer, self._longest_body)
        return head, head.request(buffer, self.address, self._number)

    def _parse(self, first: bytes | None) -> Head | None:
        """Let gunicorn parse. `first` has the bytes of the head if it is complete."""
        buffer, cache = self.buffer, self._cache
        try:
            request = Request(cache.cfg, buffer, self.address, self._number + 1)
        except Incomplete:
            buffer.rewind()
            return None
        head = Head(request)
        size = buffer.take_back()
        if first is not None and size == len(first):
            cache.learn(first, self.address, self._server, head)
        return head

    def take_body(self, request: Request) -> bool:
        """Set the request's body. Returns False for one that is too long to be read."""
        body, self.body = self.body, None
        self.buffer.ended = True
        if body is None or not body.complete:
            request.body = TooLong()
            return False
        if isinstance(body, SizedBody):
            request.body = body.stream()
        return True
