"""A whole answer: status, headers and body, built after Flask's request has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias

from flask import Response
from werkzeug.datastructures import Headers
from werkzeug.http import parse_set_header
from werkzeug.urls import iri_to_uri

Environ: TypeAlias = dict[str, Any]
StartResponse: TypeAlias = Callable[..., Any]
"""The types of WSGI (PEP 3333)."""

_OK: Final = "200 OK"
_OWN: Final = ("content-type", "content-length")
_URLS: Final = ("location", "content-location")


class PreparedResponse:
    """The answer to an inference request. `headers` do not contain Content-Length.

    Not a Flask response: making a second one per request cost 28 us.
    """

    __slots__ = ("body", "headers", "status")

    def __init__(self, body: bytes, content_type: str, status: str = _OK) -> None:
        self.body = body
        self.headers: list[tuple[str, str]] = [("Content-Type", content_type)]
        self.status = status

    @classmethod
    def of(cls, response: Response) -> PreparedResponse:
        """Return the same answer as `response`."""
        answer = cls(response.get_data(), response.content_type or "", response.status)
        answer.add(response.headers)
        return answer

    @property
    def status_code(self) -> int:
        """The number of the status."""
        return int(self.status[:3])

    def __call__(self, _environ: Environ, start_response: StartResponse) -> list[bytes]:
        """WSGI."""
        start_response(self.status, [*self.headers, ("Content-Length", str(len(self.body)))])
        return [self.body]

    def add(self, headers: Headers | Iterable[tuple[str, str]]) -> None:
        """Add the headers that this answer does not have; `Vary` is combined."""
        own = {name.lower() for name, _ in self.headers}
        for name, value in headers:
            lower = name.lower()
            if lower == "vary" and lower in own:
                self._vary(value)
            elif lower not in own and lower not in _OWN:
                self.headers.append((name, iri_to_uri(value) if lower in _URLS else value))

    def _vary(self, value: str) -> None:
        for at, (name, own) in enumerate(self.headers):
            if name.lower() == "vary":
                vary = parse_set_header(own)
                vary.update(parse_set_header(value))
                self.headers[at] = name, vary.to_header()
