"""Bodies on their way in and out: their length, and how they are compressed.

May touch: flask's request and responses, zlib.
"""

from __future__ import annotations

import zlib
from typing import IO, Final

from flask import Request, Response, current_app
from werkzeug.datastructures import Accept
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.http import parse_accept_header

from app.errors import LengthRequired, Unsupported
from app.written import Written
from engine.errors import InvalidRequest

# zlib's window size also says which header it expects
_WINDOWS: Final = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}

_DIGITS: Final = 18
"""More than any length has, and fewer than int() would need long for."""

SMALLEST_COMPRESSED: Final = 16 * 1024
"""Bytes. Numbers compress badly and most clients ask for it without knowing: a smaller answer is
sooner there as it is."""


def read_optional(request: Request) -> bytes:
    """As `read`, for a request that may come without a body."""
    if not request.content_length and not request.environ.get("wsgi.input_terminated"):
        return b""
    return read(request)


def read(request: Request) -> bytes:
    """The request's body, decompressed. It is refused before it is read where its length says so.

    Raises 413 for one that is too large, compressed or not; `LengthRequired`; `Unsupported` for an
    encoding other than gzip and deflate; `InvalidRequest` for one that does not decompress.
    """
    length = _plain_length(request)
    if length is not None:
        return _read_all(request.environ["wsgi.input"], length)
    if request.content_length is None and not request.environ.get("wsgi.input_terminated"):
        raise LengthRequired("the request says neither Content-Length nor Transfer-Encoding")
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in _WINDOWS and encoding not in ("identity", ""):
        raise Unsupported(f"Content-Encoding {encoding!r}, expected gzip, deflate or identity")
    try:
        body = request.get_data(cache=False)
    except (HTTPException, OSError):
        raise
    except Exception as error:  # the server's own, for chunks that are none
        raise InvalidRequest("body", f"it cannot be read: {error}") from None
    if encoding not in _WINDOWS:
        return body
    return _decompress(body, encoding, int(current_app.config["MAX_CONTENT_LENGTH"]))


def _read_all(stream: IO[bytes], length: int) -> bytes:
    """So many bytes, in one go where the stream has them; less where it ends before."""
    body = stream.read(length)
    while len(body) < length and (more := stream.read(length - len(body))):
        body += more
    return body


def _plain_length(request: Request) -> int | None:
    """How many bytes to read of a body about which there is nothing to check and to guard.

    That is one whose length is said and is not too large, which the server ends by itself, and of
    which nobody has read. werkzeug's stream would read it in pieces, and for the end once more.
    """
    environ = request.environ
    length = environ.get("CONTENT_LENGTH", "")
    if (
        not environ.get("wsgi.input_terminated")
        or "HTTP_TRANSFER_ENCODING" in environ
        or "HTTP_CONTENT_ENCODING" in environ
        or "stream" in vars(request)  # werkzeug's, which it makes when somebody reads
        or not (length.isdecimal() and len(length) <= _DIGITS)
    ):
        return None
    limit = request.max_content_length
    return int(length) if limit is None or int(length) <= limit else None


def _decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """At most `limit` bytes; what would be more is never made."""
    stream = zlib.decompressobj(_WINDOWS[encoding])
    try:
        plain = stream.decompress(body, limit)
    except zlib.error as error:
        raise InvalidRequest("body", f"it is not {encoding}: {error}") from None
    if stream.unconsumed_tail:
        raise RequestEntityTooLarge
    if not stream.eof:
        raise InvalidRequest("body", f"its {encoding} data is cut off")
    if stream.unused_data:
        raise InvalidRequest("body", f"{len(stream.unused_data)} bytes after its {encoding} data")
    return plain


def accepted(request: Request) -> str:
    """The encodings that this request's client accepts, as `answer` wants them."""
    accepts: str = request.environ.get("HTTP_ACCEPT_ENCODING", "")
    return accepts


def answer(content: bytes, content_type: str, accepts: str) -> Response:
    """A 200, compressed if it is large and its client accepts that."""
    if len(content) < SMALLEST_COMPRESSED or not accepts:
        return Written(content, content_type)
    encodings = parse_accept_header(accepts, Accept)
    for encoding in ("gzip", "deflate"):
        if encodings.quality(encoding) > 0:
            stream = zlib.compressobj(1, zlib.DEFLATED, _WINDOWS[encoding])
            response = Written(stream.compress(content) + stream.flush(), content_type)
            response.headers["Content-Encoding"] = encoding
            response.vary.add("Accept-Encoding")
            return response
    return Written(content, content_type)
