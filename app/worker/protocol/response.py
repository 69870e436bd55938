"""gunicorn's response; the parts that cost most per request are cheaper."""

from __future__ import annotations

import re
import time
from functools import lru_cache
from typing import Final

from gunicorn import util
from gunicorn.http.message import TOKEN_RE
from gunicorn.http.wsgi import HEADER_VALUE_RE, STATUS_RE, Response

from app.worker.suspension import PreparedAnswer

_VALUE: Final = re.compile(rf"(?![ \t]){HEADER_VALUE_RE.pattern}(?<![ \t])")
"""A value that gunicorn writes unchanged: without surrounding white space."""


@lru_cache(maxsize=256)
def _is_plain_name(name: str) -> bool:
    """Whether gunicorn accepts this name and does not write such a header itself."""
    ours = name.lower() == "content-length" or util.is_hoppish(name)
    return TOKEN_RE.fullmatch(name) is not None and not ours


@lru_cache(maxsize=256)
def _code_with_body(status: str) -> int | None:
    """The code of a valid status whose answer has a body, or None."""
    plain = STATUS_RE.fullmatch(status) and not status.startswith(("1", "204", "304"))
    return int(status[:3]) if plain else None


@lru_cache(maxsize=2)
def _date(second: int) -> str:
    """The `Date` header. It changes once a second, and formatting it takes 8 us."""
    return str(util.http_date(second))


class WorkerResponse(Response):  # type: ignore[misc]
    """gunicorn's response; `write_prepared` writes a whole answer at once."""

    status: str | None

    def write_prepared(self, answer: PreparedAnswer) -> None:
        """Write status, headers and body as one piece, with the checks that gunicorn makes.

        An answer that gunicorn would change (invalid or hop-by-hop headers, no body allowed) takes
        gunicorn's own path: `start_response` and `write`. Raises what these raise.
        """
        body = answer.body
        headers = [*answer.headers, ("Content-Length", str(len(body)))]
        code = _code_with_body(answer.status) if self.req.method != "HEAD" else None
        plain = all(_is_plain_name(name) and _VALUE.fullmatch(it) for name, it in answer.headers)
        if code is None or not plain or self.status is not None:
            self.start_response(answer.status, headers)
            self.write(body)
            return
        self.status, self.status_code, self.headers = answer.status, code, headers
        self.response_length = self.sent = len(body)
        lines = [*self.default_headers(), *[f"{name}: {value}\r\n" for name, value in headers]]
        self.headers_sent = True
        self.sock.sendall(f"{''.join(lines)}\r\n".encode("latin-1") + body)

    def default_headers(self) -> list[str]:
        """The status line and the server's own headers, as gunicorn writes them."""
        connection = "close" if self.should_close() else "keep-alive"
        if self.upgrade:
            connection = "upgrade"
        major, minor = self.req.version
        line = f"HTTP/{major}.{minor} {self.status}\r\n"
        date = _date(int(time.time()))
        own = f"Server: {self.version}\r\nDate: {date}\r\nConnection: {connection}\r\n"
        lines = [line, own]
        if self.chunked:
            lines.append("Transfer-Encoding: chunked\r\n")
        return lines
