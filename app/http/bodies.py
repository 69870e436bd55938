"""Reads and decompresses request bodies; compresses response bodies."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import IO, Any, Final

from werkzeug.datastructures import Accept
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.http import parse_accept_header

from app.http.errors import LengthRequired, Unsupported
from app.http.hooks import BrimRequest, Identified
from app.http.responses.prepared import PreparedResponse
from app.http.services import Services, services
from app.worker.limits.budget import no_room
from app.worker.limits.limits import LimitExceeded
from engine.api import InvalidRequest

# zlib's window size also selects the header that it expects
_WINDOWS: Final = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_DIGITS: Final = 18  # more than any length has; int() is slow on thousands of them

INVALID, TOO_LARGE = 400, 413

MIN_COMPRESSED: Final = 16 * 1024
"""Bytes. Numbers compress badly, and most clients ask for compression by default: a smaller answer
arrives sooner uncompressed."""


def read_optional(request: BrimRequest) -> bytes:
    """Read the body of a request that may have none."""
    return read(request) if request.content_length or not _has_no_length(request) else b""


def read(request: BrimRequest) -> bytes:
    """Return the request's body, decompressed. A known length is checked before reading.

    Raises `LimitExceeded` for a body that is too large, compressed or not, or for which there is no
    room; `LengthRequired`; `Unsupported` for an encoding other than gzip and deflate;
    `InvalidRequest` for one that does not decompress.
    """
    length = _plain_length(request)
    if length is not None:
        return read_plain(request, services(), length)
    if _has_no_length(request):
        raise LengthRequired("the request says neither Content-Length nor Transfer-Encoding")
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in _WINDOWS and encoding not in ("identity", ""):
        raise Unsupported(f"Content-Encoding {encoding!r}, expected gzip, deflate or identity")
    body = _read_stream(request, services())
    return body if encoding not in _WINDOWS else _decompress(body, encoding, request, services())


def _has_no_length(request: BrimRequest) -> bool:
    """Whether the end of the body is not known. A server that ends the stream itself knows it, but
    in HTTP/1 it has only guessed that there is no body.
    """
    environ = request.environ
    if request.content_length is not None or "HTTP_TRANSFER_ENCODING" in environ:
        return False
    one = environ.get("SERVER_PROTOCOL", "").startswith("HTTP/1")
    return one or not environ.get("wsgi.input_terminated")


def read_plain(request: Identified, services: Services, length: int) -> bytes:
    """Read a body of `plain_length`. Raises `InvalidRequest` for one that ends early."""
    _reserve_received(request, services, length)
    return _whole(read_all(request.environ["wsgi.input"], length), length)


def _whole(body: bytes, length: int) -> bytes:
    """Check that a body has not ended early. Brim's worker does not call the app then; gthread
    does, and what came may be valid JSON by itself.
    """
    if len(body) < length:
        problem = f"it ended after {len(body)} bytes, and Content-Length is {length}"
        raise InvalidRequest("body", problem)
    return body


def _reserve_received(request: Identified, services: Services, size: int) -> None:
    if request.exchange is None:  # Brim's worker has counted what it received
        _reserve(request, services, size)


def _reserve(request: Identified, services: Services, size: int) -> None:
    """Take bytes of the budget, until the view has returned."""
    if not services.budget.grow(size, request.reserved + size):
        raise no_room(services.budget)
    request.reserved += size


def check_json(size: int, services: Services) -> None:
    """Raise `LimitExceeded` if a body has too much JSON."""
    if size > (limit := services.limits.max_json_bytes):
        problem = f"the body has {size} bytes of JSON, and limits.max_json_bytes is {limit}"
        raise LimitExceeded("max_json_bytes", TOO_LARGE, f"{problem}; send binary tensors")


def check_id(request_id: str | None, services: Services) -> None:
    """Raise `LimitExceeded` if an `id`, which the answer repeats, is too long."""
    limit = services.limits.max_id_bytes
    if request_id is not None and (size := len(request_id.encode())) > limit:
        problem = f"id: it has {size} bytes, and limits.max_id_bytes is {limit}"
        raise LimitExceeded("max_id_bytes", INVALID, problem)


def _read_stream(request: BrimRequest, services: Services) -> bytes:
    limit, length = request.max_content_length, request.content_length
    if length is not None and (limit is None or length <= limit):
        _reserve_received(request, services, length)
    try:
        body = request.get_data(cache=False)
    except RequestEntityTooLarge:
        problem = f"the body is larger than limits.max_body_bytes, which is {limit}"
        raise LimitExceeded("max_body_bytes", TOO_LARGE, problem) from None
    except (HTTPException, OSError):
        raise
    except Exception as error:  # the server's own error for malformed chunks
        raise InvalidRequest("body", f"it cannot be read: {error}") from None
    if length is None:
        _reserve_received(request, services, len(body))
    return body if length is None else _whole(body, length)


def read_all(stream: IO[bytes], length: int) -> bytes:
    """Return `length` bytes, fewer if the stream ends early; one read where the stream has them."""
    body = stream.read(length)
    while len(body) < length and (more := stream.read(length - len(body))):
        body += more
    return body


def _plain_length(request: BrimRequest) -> int | None:
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


def _decompress(body: bytes, encoding: str, request: Identified, services: Services) -> bytes:
    limit = services.limits.max_decompressed_bytes
    _reserve(request, services, limit)
    plain = decompress(body, encoding, limit)
    _reserve(request, services, len(plain) - limit)
    return plain


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """Decompress to at most `limit` bytes: zlib stops there, and makes no more of them."""
    stream = zlib.decompressobj(_WINDOWS[encoding])
    try:
        plain = stream.decompress(body, limit)
    except zlib.error as error:
        raise InvalidRequest("body", f"it is not {encoding}: {error}") from None
    if stream.unconsumed_tail:
        problem = f"the {encoding} body is larger than limits.max_decompressed_bytes, {limit}"
        raise LimitExceeded("max_decompressed_bytes", TOO_LARGE, problem)
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
