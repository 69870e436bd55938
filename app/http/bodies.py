"""Reads and decompresses request bodies; compresses response bodies."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import IO, Any, Final

from flask import Request, current_app
from werkzeug.datastructures import Accept
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.http import parse_accept_header

from app.http.errors import LengthRequired, Unsupported
from app.http.responses.prepared import PreparedResponse
from engine.api import InvalidRequest

# zlib's window size also selects the header that it expects
_WINDOWS: Final = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_DIGITS: Final = 18  # more than any length has; int() is slow on thousands of them

MIN_COMPRESSED: Final = 16 * 1024
"""Bytes. Numbers compress badly, and most clients ask for compression by default: a smaller answer
arrives sooner uncompressed."""


def read_optional(request: Request) -> bytes:
    """Read the body of a request that may have none."""
    if not request.content_length and not request.environ.get("wsgi.input_terminated"):
        return b""
    return read(request)


def read(request: Request) -> bytes:
    """Return the request's body, decompressed. A known length is checked before reading.

    Raises 413 for a body that is too large, compressed or not; `LengthRequired`; `Unsupported` for
    an encoding other than gzip and deflate; `InvalidRequest` for one that does not decompress.
    """
    length = _plain_length(request)
    if length is not None:
        return read_all(request.environ["wsgi.input"], length)
    if request.content_length is None and not request.environ.get("wsgi.input_terminated"):
        raise LengthRequired("the request says neither Content-Length nor Transfer-Encoding")
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in _WINDOWS and encoding not in ("identity", ""):
        raise Unsupported(f"Content-Encoding {encoding!r}, expected gzip, deflate or identity")
    body = _read_stream(request)
    if encoding not in _WINDOWS:
        return body
    return _decompress(body, encoding, int(current_app.config["MAX_CONTENT_LENGTH"]))


def _read_stream(request: Request) -> bytes:
    try:
        return request.get_data(cache=False)
    except (HTTPException, OSError):
        raise
    except Exception as error:  # the server's own error for malformed chunks
        raise InvalidRequest("body", f"it cannot be read: {error}") from None


def read_all(stream: IO[bytes], length: int) -> bytes:
    """Return `length` bytes, fewer if the stream ends early; one read where the stream has them."""
    body = stream.read(length)
    while len(body) < length and (more := stream.read(length - len(body))):
        body += more
    return body


def _plain_length(request: Request) -> int | None:
    """Return the length of a body that can be read directly from the server, or None.

    Such a body is not encoded, not yet read, of a known length within the limit, and the server
    itself ends the stream. werkzeug's stream would read it in slices and read once more at the end.
    """
    if "stream" in vars(request):  # werkzeug's stream, created by the first read
        return None
    return plain_length(request.environ, request.max_content_length)


def plain_length(environ: Mapping[str, Any], limit: int | None) -> int | None:
    """Return the length of such a body of a request that has not been read."""
    length = environ.get("CONTENT_LENGTH", "")
    if (
        not environ.get("wsgi.input_terminated")
        or "HTTP_TRANSFER_ENCODING" in environ
        or "HTTP_CONTENT_ENCODING" in environ
        or not (length.isdecimal() and len(length) <= _DIGITS)
    ):
        return None
    return int(length) if limit is None or int(length) <= limit else None


def _decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """Decompress to at most `limit` bytes; memory use never exceeds that."""
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


def answer(content: bytes, content_type: str, accepts: str) -> PreparedResponse:
    """Build a 200 response, compressed if it is large and `accepts` (Accept-Encoding) allows it."""
    if len(content) >= MIN_COMPRESSED and accepts:
        encodings = parse_accept_header(accepts, Accept)
        for encoding, window in _WINDOWS.items():
            if encodings.quality(encoding) > 0:
                stream = zlib.compressobj(1, zlib.DEFLATED, window)
                response = PreparedResponse(stream.compress(content) + stream.flush(), content_type)
                response.headers += [("Content-Encoding", encoding), ("Vary", "Accept-Encoding")]
                return response
    return PreparedResponse(content, content_type)
