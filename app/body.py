"""Bodies on their way in and out: their length, and how they are compressed.

May touch: flask's request, zlib.
"""

from __future__ import annotations

import zlib
from typing import Final

from flask import Response, current_app, request
from werkzeug.datastructures import Accept
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_accept_header

from app.errors import LengthRequired, Unsupported
from engine.errors import InvalidRequest

# zlib's window size also says which header it expects
_WINDOWS: Final = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}

SMALLEST_COMPRESSED: Final = 16 * 1024
"""Bytes. Numbers compress badly and most clients ask for it without knowing: a smaller answer is
sooner there as it is."""


def read_optional() -> bytes:
    """As `read`, for a request that may come without a body."""
    if not request.content_length and not request.environ.get("wsgi.input_terminated"):
        return b""
    return read()


def read() -> bytes:
    """The request's body, decompressed. It is refused before it is read where its length says so.

    Raises 413 for one that is too large, compressed or not; `LengthRequired`; `Unsupported` for an
    encoding other than gzip and deflate; `InvalidRequest` for one that does not decompress.
    """
    if request.content_length is None and not request.environ.get("wsgi.input_terminated"):
        raise LengthRequired("the request says neither Content-Length nor Transfer-Encoding")
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in _WINDOWS and encoding not in ("identity", ""):
        raise Unsupported(f"Content-Encoding {encoding!r}, expected gzip, deflate or identity")
    body = request.get_data(cache=False)
    if encoding not in _WINDOWS:
        return body
    return _decompress(body, encoding, int(current_app.config["MAX_CONTENT_LENGTH"]))


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


def accepted() -> str:
    """The encodings that this request's client accepts, as `compress` wants them."""
    return request.headers.get("Accept-Encoding", "")


def compress(response: Response, accepts: str) -> Response:
    """Compress a large answer for a client that accepts it, and say so."""
    body: bytes = response.get_data()
    if len(body) < SMALLEST_COMPRESSED or not accepts:
        return response
    encodings = parse_accept_header(accepts, Accept)
    for encoding in ("gzip", "deflate"):
        if encodings.quality(encoding) > 0:
            stream = zlib.compressobj(1, zlib.DEFLATED, _WINDOWS[encoding])
            response.set_data(stream.compress(body) + stream.flush())
            response.headers["Content-Encoding"] = encoding
            response.vary.add("Accept-Encoding")
            return response
    return response
