"""Splits the bytes that one client sends into requests."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from gunicorn.http.message import Request

from app.worker.limits.bounds import Bounds
from app.worker.limits.limits import LimitExceeded
from app.worker.protocol.bodies import ChunkedBody, Refused, SizedBody
from app.worker.protocol.head_cache import Head, HeadCache
from app.worker.protocol.read_buffer import Incomplete, ReadBuffer

READ_SIZE: Final = 64 * 1024
"""Bytes per read while a head is expected."""


class RequestReader:
    """`next_head` until there is one; then `body` until it is complete; then `next_request`."""

    __slots__ = (
        "_bounds",
        "_cache",
        "_number",
        "_reserved",
        "_server",
        "address",
        "body",
        "buffer",
    )

    def __init__(self, cache: HeadCache, bounds: Bounds, address: Any, server: Any) -> None:
        """`server` is the address that the client connected to."""
        self._cache = cache
        self._bounds = bounds
        self._reserved = 0
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
                self._check_head(buffer.held)
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
        self.body = head.body(buffer, self._bounds.limits.max_body_bytes)
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
        self._check_head(size)
        if first is not None and size == len(first):
            cache.learn(first, self.address, self._server, head)
        return head

    def _check_head(self, size: int) -> None:
        if size > (limit := self._bounds.limits.max_head_bytes):
            problem = f"the head has {size} bytes or more, and limits.max_head_bytes is {limit}"
            code = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            raise LimitExceeded("max_head_bytes", code, problem)

    def take_body(self, request: Request) -> bool:
        """Set the request's body. Returns False for one that is refused, and was not read."""
        body, self.body = self.body, None
        self.buffer.ended = True
        if body is not None and body.refusal is not None:
            self.buffer.clear()
            request.body = Refused(body.refusal)
            return False
        if isinstance(body, SizedBody):
            request.body = body.stream()
        return True

    def clear(self) -> None:
        """Drop everything."""
        self.buffer.clear()
        self._release()

    def next_request(self) -> None:
        """Drop the request that was answered; what follows it begins the next one."""
        self.buffer.next_request()
        self._release()

    # --- the budget ------------------------------------------------------------------------------

    def fits(self) -> bool:
        """Whether the body that begins may come: there is room, as far as its length is known."""
        body = self.body
        if body is None or body.refusal is not None:
            return False
        return self._bounds.budget.has_room(body.length)

    def reserve(self, *, begins: bool) -> bool:
        """Take room in the budget for all that has come. Returns False if there is none, or none
        for the body that `begins`. A request without a body needs none, so that a full process
        answers probes; nor does one that is refused.
        """
        body = self.body
        if body is not None:
            if body.empty or body.refusal is not None:
                return True
            if begins and not body.complete and not self.fits():
                return False
        size = self.buffer.size
        if not self._bounds.budget.grow(size - self._reserved, size):
            return False
        self._reserved = size
        return True

    def _release(self) -> None:
        """Give the room back: the request is answered, or its bytes were dropped."""
        if self._reserved:
            self._bounds.budget.add(-self._reserved)
            self._reserved = 0
