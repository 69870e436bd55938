"""Request heads that gunicorn's parser has read before.

A client that keeps its connection sends the same request line and headers with every request, byte
by byte. The same bytes between the same addresses mean the same, so the parser's result is looked
up. Parsing and making the environ took 65 us of a request's 92 in this worker; a look-up and a copy
take 8.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

from gunicorn.config import PreRequest
from gunicorn.http import wsgi
from gunicorn.http.body import LengthReader
from gunicorn.http.message import Request

from app.worker.protocol.bodies import ChunkedBody, SizedBody
from app.worker.protocol.read_buffer import ReadBuffer
from app.worker.protocol.response import WorkerResponse
from app.worker.protocol.write_buffer import WriteBuffer

MAX_HEADS: Final = 512
"""Heads that are kept, the most recently used ones. With its environ, one takes some 5 KB."""
MAX_LENGTH: Final = 4096
"""Bytes of a head that is kept."""

Environ = dict[str, Any]
Key = tuple[bytes, Any, Any]


class Head:
    """The parsed request line and headers of a request.

    `length` is that of the body in bytes, None for chunks. `reusable`: other requests with the same
    bytes may use it, too.
    """

    __slots__ = ("_environ", "_first", "_state", "length", "reusable")

    def __init__(self, request: Request) -> None:
        """`request` was parsed just now."""
        reader: Any = request.body.reader
        self.length: int | None = reader.length if isinstance(reader, LengthReader) else None
        self.reusable = not (
            self.length is None or request._expected_100_continue or request.must_close
        )
        self._first: Request | None = request
        self._environ: Environ | None = None
        self._state: dict[str, Any] = {}
        if self.reusable:
            self._state = vars(request).copy()
            self._state["headers"] = tuple(request.headers)
            del self._state["body"], self._state["unreader"]

    def request(self, buffer: ReadBuffer, address: Any, number: int) -> Request:
        """Return the parsed request; later, an equal one with this number, without a body."""
        first, self._first = self._first, None
        if first is not None:
            return first
        request = Request.__new__(Request)
        vars(request).update(
            self._state,
            headers=list(self._state["headers"]),
            trailers=[],
            unreader=buffer,
            peer_addr=address,
            remote_addr=address,
            req_number=number,
        )
        return request

    def body(self, buffer: ReadBuffer, longest: int) -> SizedBody | ChunkedBody:
        """Return the body that follows; `longest` is in bytes."""
        if self.length is None:
            return ChunkedBody(buffer, longest)
        return SizedBody(buffer, self.length, longest)

    def open(
        self, request: Request, write_buffer: WriteBuffer, server: Any, cfg: Any
    ) -> tuple[WorkerResponse, Environ]:
        """Return gunicorn's response and environ for this request. Raises what gunicorn raises."""
        if self._environ is None:
            return self._open_first(request, write_buffer, server, cfg)
        response = WorkerResponse(request, write_buffer, cfg)
        environ = self._environ.copy()
        environ["wsgi.input"] = request.body
        hints = wsgi._make_early_hints_callback(request, write_buffer, response)
        environ["wsgi.early_hints"] = hints
        environ["gunicorn.socket"] = write_buffer.sock
        if isinstance(request.peer_addr, tuple):
            environ["REMOTE_PORT"] = str(request.peer_addr[1])
        return response, environ

    def _open_first(
        self, request: Request, write_buffer: WriteBuffer, server: Any, cfg: Any
    ) -> tuple[WorkerResponse, Environ]:
        response, environ = wsgi.create(
            request, write_buffer, request.peer_addr, server, cfg, WorkerResponse
        )
        environ["wsgi.multithread"] = True
        environ["gunicorn.socket"] = write_buffer.sock
        if self.reusable:
            self._environ = environ.copy()
            for name in ("wsgi.input", "wsgi.early_hints", "gunicorn.socket"):
                del self._environ[name]
        return response, environ


class HeadCache:
    """The most recently used heads, by their bytes and both addresses."""

    def __init__(self, cfg: Any) -> None:
        """Keeps nothing if equal heads may differ in meaning: a `pre_request` hook may change each
        request, and the PROXY protocol puts a line before the first one.
        """
        simple = cfg.pre_request is PreRequest.default and cfg.proxy_protocol == "off"
        self.cfg = cfg
        self._max_heads = MAX_HEADS if simple else 0
        self._heads: OrderedDict[Key, Head] = OrderedDict()

    def find(self, data: bytes, address: Any, server: Any) -> Head | None:
        """Return the head if these bytes were sent from the same address to `server` before."""
        key = _key(data, address, server)
        head = self._heads.get(key)
        if head is not None:
            self._heads.move_to_end(key)
        return head

    def learn(self, data: bytes, address: Any, server: Any, head: Head) -> None:
        """Keep the head of these bytes."""
        if not head.reusable or len(data) > MAX_LENGTH or not self._max_heads:
            return
        self._heads[_key(data, address, server)] = head
        if len(self._heads) > self._max_heads:
            self._heads.popitem(last=False)

    def clear(self) -> None:
        """Drop all: their environs hold gunicorn's log files, which may be reopened."""
        self._heads.clear()


def _key(data: bytes, address: Any, server: Any) -> Key:
    # the peer of a Unix socket has no port
    return data, address[0] if isinstance(address, tuple) else address, server
