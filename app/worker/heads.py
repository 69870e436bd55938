"""Heads that gunicorn's parser has read before.

May touch: gunicorn's parser and its making of WSGI's environ.

A client that keeps its connection sends the same line and headers with every request, byte by byte.
What they mean was decided by gunicorn's parser when it first read them, and the same bytes from the
same address to the same address mean the same: so they are looked up instead of parsed. Parsing and
the environ were 65 us of a request's 92 in this worker, a look-up and a copy are 8.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

from gunicorn.config import PreRequest
from gunicorn.http import wsgi
from gunicorn.http.body import LengthReader
from gunicorn.http.message import Request

from app.worker.answer import Answer
from app.worker.inbox import ChunkedBody, Inbox, SizedBody
from app.worker.outbox import Outbox

MOST: Final = 512
"""Heads that are known, those that were used last. With their environ they are some 5 KB each."""
LONGEST: Final = 4096
"""Bytes of a head that is worth knowing."""

Environ = dict[str, Any]
Key = tuple[bytes, Any, Any]


class Head:
    """What one request's line and headers mean; `request` and `open` make what each request needs.

    `length` is that of the body in bytes, None for one in chunks. `again`: may other requests that
    begin with the same bytes use it, too?
    """

    __slots__ = ("_environ", "_first", "_state", "again", "length")

    def __init__(self, request: Request) -> None:
        """`request` was parsed just now."""
        reader: Any = request.body.reader
        self.length: int | None = reader.length if isinstance(reader, LengthReader) else None
        self.again = not (
            self.length is None or request._expected_100_continue or request.must_close
        )
        self._first: Request | None = request
        self._environ: Environ | None = None
        self._state: dict[str, Any] = {}
        if self.again:
            self._state = vars(request).copy()
            self._state["headers"] = tuple(request.headers)
            del self._state["body"], self._state["unreader"]

    def request(self, inbox: Inbox, address: Any, number: int) -> Request:
        """The request as gunicorn parsed it, or one that is the same but for its number and place,
        and that has no body yet.
        """
        first, self._first = self._first, None
        if first is not None:
            return first
        request = Request.__new__(Request)
        state = vars(request)
        state.update(self._state)
        state["headers"] = list(self._state["headers"])
        state["trailers"] = []
        state["unreader"] = inbox
        state["peer_addr"] = state["remote_addr"] = address
        state["req_number"] = number
        return request

    def body(self, inbox: Inbox, longest: int) -> SizedBody | ChunkedBody:
        """The body that follows; `longest` is in bytes."""
        if self.length is None:
            return ChunkedBody(inbox, longest)
        return SizedBody(inbox, self.length, longest)

    def open(
        self, request: Request, outbox: Outbox, address: Any, server: Any, cfg: Any
    ) -> tuple[Answer, Environ]:
        """Gunicorn's response and environ for this request. Raises what gunicorn raises."""
        if self._environ is not None:
            answer = Answer(request, outbox, cfg)
            environ = self._environ.copy()
            environ["wsgi.input"] = request.body
            environ["wsgi.early_hints"] = wsgi._make_early_hints_callback(request, outbox, answer)
            environ["gunicorn.socket"] = outbox.sock
            if isinstance(address, tuple):
                environ["REMOTE_PORT"] = str(address[1])
            return answer, environ
        answer, environ = wsgi.create(request, outbox, address, server, cfg, Answer)
        environ["wsgi.multithread"] = True
        environ["gunicorn.socket"] = outbox.sock
        if self.again:
            self._environ = environ.copy()
            for name in ("wsgi.input", "wsgi.early_hints", "gunicorn.socket"):
                del self._environ[name]
        return answer, environ


class Heads:
    """Those that have been read."""

    def __init__(self, cfg: Any) -> None:
        # a hook may make something else of each request, and the first request behind such a proxy
        # begins with another line, which is the proxy's
        simple = cfg.pre_request is PreRequest.default and cfg.proxy_protocol == "off"
        self._most = MOST if simple else 0
        self._known: OrderedDict[Key, Head] = OrderedDict()

    def find(self, head: bytes, address: Any, server: Any) -> Head | None:
        """What these bytes mean, if a client at this address has sent them before to `server`."""
        key = _key(head, address, server)
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
        return known

    def learn(self, head: bytes, address: Any, server: Any, known: Head) -> None:
        """It means this."""
        if not known.again or len(head) > LONGEST or not self._most:
            return
        self._known[_key(head, address, server)] = known
        if len(self._known) > self._most:
            self._known.popitem(last=False)

    def forget(self) -> None:
        """Their environs hold gunicorn's log files, which are opened anew now and then."""
        self._known.clear()


def _key(head: bytes, address: Any, server: Any) -> Key:
    # a unix socket's peer has no port
    return head, address[0] if isinstance(address, tuple) else address, server
