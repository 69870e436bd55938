"""What the worker itself answers: bytes that are no request, and applications that fail."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from types import FrameType
from typing import Any, Final, Protocol, TypeAlias
from urllib.parse import unquote_to_bytes

from gunicorn import SERVER, util
from gunicorn.http import errors
from gunicorn.http.message import Request
from gunicorn.workers.base import Worker
from typing_extensions import override

from app.worker.limits.bounds import Bounds
from app.worker.limits.limits import LimitExceeded
from app.worker.protocol.cycle import Host as CycleHost
from app.worker.protocol.request_reader import RequestReader
from app.worker.protocol.write_buffer import WriteBuffer
from app.worker.suspension import PreparedAnswer

Refuse: TypeAlias = Callable[[Mapping[str, Any], int, str, BaseException], PreparedAnswer]
"""Makes an application's own answer: of the environ, as far as the request could be read, a status,
the reason, and the exception."""

INTERNAL: Final = 500

_STATUS: Final[Sequence[tuple[type[BaseException], int]]] = (
    (errors.InvalidResponseHeader, INTERNAL),
    (errors.InvalidResponseHeaderName, INTERNAL),
    (errors.ConfigurationProblem, 404),  # a path outside SCRIPT_NAME
    (errors.LimitRequestLine, 414),
    (errors.LimitRequestHeaders, 431),
    (errors.ExpectationFailed, 417),
    (errors.UnsupportedTransferCoding, 501),
    (errors.InvalidHTTPVersion, 505),
    (errors.ForbiddenProxyRequest, 403),
    (errors.ParseException, 400),
)
"""As gunicorn's own answers, but 404, where it has 500, and 505, where it has 400."""

_LINE: Final = re.compile(rb"\s*([!-~]{1,32}) ([!-~]*)(?: (HTTP/[0-9.]{1,8})\r?\n)?")
_ID: Final = re.compile(rb"\r\nx-request-id:[ \t]*([!-~]+)[ \t]*\r\n", re.IGNORECASE)
_LOOK_AT: Final = 8192
"""Bytes of a head that could not be parsed, in which its first line and its id are looked for."""


def status_of(error: BaseException) -> int:
    """The status of the answer; 500 for anything that the client did not cause."""
    if isinstance(error, LimitExceeded):
        return error.code
    return next((status for kind, status in _STATUS if isinstance(error, kind)), INTERNAL)


def environ_of(request: Request | None, head: bytes, address: Any) -> dict[str, Any]:
    """What is known of a request: parsed, or of the bytes that could not be."""
    environ = {
        "REQUEST_METHOD": "-",
        "RAW_URI": "-",
        "SERVER_PROTOCOL": "-",
        "PATH_INFO": "-",
        "REMOTE_ADDR": str(address[0]) if isinstance(address, tuple) and address else "-",
    }
    if request is not None and request.version is not None:
        major, minor = request.version
        headers = {f"HTTP_{name.replace('-', '_')}": value for name, value in request.headers}
        return {
            **headers,
            **environ,
            "REQUEST_METHOD": request.method,
            "RAW_URI": request.uri,
            "SERVER_PROTOCOL": f"HTTP/{major}.{minor}",
            "PATH_INFO": _path(request.uri.encode("latin-1")),
        }
    head = head[:_LOOK_AT]
    if line := _LINE.match(head):
        method, uri, protocol = (part.decode("latin-1") for part in line.groups(b"-"))
        environ |= {"REQUEST_METHOD": method, "RAW_URI": uri, "SERVER_PROTOCOL": protocol}
        environ["PATH_INFO"] = _path(line[2])
    if identified := _ID.search(head):
        environ["HTTP_X_REQUEST_ID"] = identified[1].decode("latin-1")
    return environ


def _path(uri: bytes) -> str:
    return unquote_to_bytes(uri.partition(b"?")[0]).decode("latin-1")


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer, after which the connection ends. The access log reads its fields."""

    status: str
    headers: list[tuple[str, str]]
    sent: int
    data: bytes

    @classmethod
    def of(cls, answer: PreparedAnswer, server: str, *, body: bool) -> Refusal:
        """`server` is the name in its headers; without `body`, as HEAD wants it, only these."""
        headers = [*answer.headers, ("Content-Length", str(len(answer.body)))]
        own = [("Server", server), ("Date", util.http_date()), ("Connection", "close")]
        lines = "".join(f"{name}: {value}\r\n" for name, value in [*own, *headers])
        content = answer.body if body else b""
        data = f"HTTP/1.1 {answer.status}\r\n{lines}\r\n".encode("latin-1") + content
        return cls(answer.status, headers, len(content), data)


class RefusingWorker(Worker):  # type: ignore[misc]
    """gunicorn's worker, as far as errors and the signals that end it at once are concerned.

    `quitting`: a signal's handler has raised SystemExit where the process happened to be, which may
    be a user's code.
    """

    quitting = False

    @property
    def refuse(self) -> Refuse | None:
        """The application's; without it the answers are gunicorn's."""
        refuse: Refuse | None = getattr(self.wsgi, "refuse", None)
        return refuse

    @override
    def handle_quit(self, number: int, frame: FrameType | None) -> None:
        self.quitting = True
        super().handle_quit(number, frame)

    @override
    def handle_abort(self, number: int, frame: FrameType | None) -> None:
        self.quitting = True
        super().handle_abort(number, frame)

    @override
    def handle_error(
        self, req: Any, client: Any, addr: Any, exc: BaseException, head: bytes = b""
    ) -> None:
        if self.refuse is None:
            if isinstance(exc, LimitExceeded):
                phrase = HTTPStatus(exc.code).phrase
                util.write_error(client, exc.code, phrase, str(exc))
            else:
                super().handle_error(req, client, addr, exc)
            return
        status, environ = status_of(exc), environ_of(req, head, addr)
        if status != INTERNAL:  # that is for the application to log
            self.log.warning("Invalid request from ip=%s: %s", environ["REMOTE_ADDR"], exc)
        answer = self.refuse(environ, status, str(exc) or HTTPStatus(status).phrase, exc)
        has_body = environ["REQUEST_METHOD"] != "HEAD"
        refusal = Refusal.of(answer, SERVER, body=has_body)
        self.log.access(refusal, req or (), environ, timedelta())
        client.sendall(refusal.data)


class Host(CycleHost, Protocol):
    """What `refuse` needs of the worker."""

    bounds: Bounds


def refuse(
    host: Host,
    request: Request | None,
    reader: RequestReader,
    write_buffer: WriteBuffer,
    error: BaseException,
) -> None:
    """Write the answer to what is no request, or could not begin, or exceeds a limit."""
    if host.quitting and not isinstance(error, Exception):
        raise error
    if isinstance(error, LimitExceeded):
        host.bounds.count(error.limit)
    host.handle_error(request, write_buffer, reader.address, error, reader.buffer.start)
