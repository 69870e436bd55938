"""CORS: which pages of other origins may call this server from a browser.

At the level of WSGI, and not in a hook of Flask's: the direct path and the refusals outside Flask
have no hooks. A request without an `Origin` that nothing may cache pays a look-up, and no more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from app.http.responses.operation import HEADER_LENGTH
from app.http.responses.prepared import PreparedResponse, StartResponse

ANY: Final = "*"
EXPOSED: Final = f"X-Request-Id, Retry-After, {HEADER_LENGTH}"
MAX_AGE_S: Final = 600
"""Seconds for which a browser may remember what it is allowed."""

_CACHED: Final = frozenset(("GET", "HEAD"))
_NAMES: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, -]{1,1000}")

Headers = list[tuple[str, str]]


class Cors:
    """Adds the headers for the allowed origins."""

    def __init__(self, origins: Sequence[str]) -> None:
        """An origin is `SCHEME://HOST[:PORT]`, or `*` for any."""
        self._origins = frozenset(origins)

    def applies(self, environ: Mapping[str, Any]) -> bool:
        """Whether the answer to this request needs headers."""
        return bool(self._origins) and (
            "HTTP_ORIGIN" in environ or environ["REQUEST_METHOD"] in _CACHED
        )

    def start(self, environ: Mapping[str, Any], start_response: StartResponse) -> StartResponse:
        """Return a `start_response` that adds the headers."""

        def start(status: str, headers: Headers, *exc_info: Any) -> Any:
            return start_response(status, self.added(environ, headers), *exc_info)

        return start

    def answer(self, environ: Mapping[str, Any], answer: PreparedResponse) -> PreparedResponse:
        """Add the headers to a whole answer, and return it."""
        if self.applies(environ):
            answer.headers = self.added(environ, answer.headers)
        return answer

    def added(self, environ: Mapping[str, Any], headers: Headers) -> Headers:
        """Return the headers of an answer, and those that its browser needs."""
        origin = environ.get("HTTP_ORIGIN", "")
        more: Headers = []
        if ANY in self._origins:
            more = [("Access-Control-Allow-Origin", ANY)]
        else:
            headers = _varied(headers)
            if origin in self._origins:
                more = [("Access-Control-Allow-Origin", origin)]
        if not origin or not more:
            return headers
        if environ["REQUEST_METHOD"] == "OPTIONS":
            return [*headers, *more, *_preflight(environ, headers)]
        return [*headers, *more, ("Access-Control-Expose-Headers", EXPOSED)]


def _preflight(environ: Mapping[str, Any], headers: Headers) -> Headers:
    """What the browser asks before the request itself: methods and headers."""
    if "HTTP_ACCESS_CONTROL_REQUEST_METHOD" not in environ:
        return []
    allowed = ", ".join(value for name, value in headers if name.lower() == "allow")
    found = [
        ("Access-Control-Allow-Methods", allowed),
        ("Access-Control-Max-Age", str(MAX_AGE_S)),
    ]
    asked = environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS", "")
    if _NAMES.fullmatch(asked):
        found.append(("Access-Control-Allow-Headers", asked))
    return found


def _varied(headers: Headers) -> Headers:
    """The headers, with `Origin` in `Vary`: a cache keeps an answer for each."""
    vary = [value for name, value in headers if name.lower() == "vary"]
    others = [(name, value) for name, value in headers if name.lower() != "vary"]
    return [*others, ("Vary", ", ".join([*vary, "Origin"]))]
