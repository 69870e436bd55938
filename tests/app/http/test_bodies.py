"""Request bodies obey the size limit, compressed or not; large responses are compressed."""

from __future__ import annotations

import gzip
import io
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
from flask import Flask, Response, request
from flask.testing import FlaskClient
from gunicorn.http.errors import InvalidChunkSize

from app.http import bodies as body
from app.http import errors
from app.http.bodies import MIN_COMPRESSED
from tests.app.conftest import Served, error_of

LIMIT = 100_000
COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}


@pytest.fixture
def client() -> FlaskClient:
    """An app that echoes the body, and a route with a response of any size."""
    app = Flask("bodies")
    app.config["MAX_CONTENT_LENGTH"] = LIMIT
    errors.register(app)

    @app.post("/echo")
    def echo() -> bytes:
        return body.read(request)

    @app.post("/optional")
    def optional() -> bytes:
        return body.read_optional(request) or b"nothing"

    @app.get("/<int:size>")
    def answer(size: int) -> Response:
        return body.answer(b"7" * size, "text/plain", request.headers.get("Accept-Encoding", ""))

    return app.test_client()


# --- requests -------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", [None, "", "identity", "Identity"])
def test_an_uncompressed_body_is_read_unchanged(client: FlaskClient, encoding: str | None) -> None:
    headers = {} if encoding is None else {"Content-Encoding": encoding}
    assert client.post("/echo", data=b"full", headers=headers).data == b"full"


@pytest.mark.parametrize("said", ["gzip", "deflate", " GZIP "])
@pytest.mark.parametrize("plain", [b"", b"full", b"7" * LIMIT], ids=["empty", "short", "limit"])
def test_a_compressed_body_is_read_up_to_the_limit(
    client: FlaskClient, said: str, plain: bytes
) -> None:
    data = COMPRESS[said.strip().lower()](plain)
    response = client.post("/echo", data=data, headers={"Content-Encoding": said})
    assert (response.status_code, response.data) == (200, plain)


@pytest.mark.parametrize("encoding", COMPRESS)
@pytest.mark.parametrize("beyond", [1, 200 * LIMIT], ids=["one byte", "a bomb"])
def test_a_body_that_decompresses_beyond_the_limit_is_413(
    client: FlaskClient, encoding: str, beyond: int
) -> None:
    data = COMPRESS[encoding](b"7" * (LIMIT + beyond))
    assert len(data) < LIMIT
    response = client.post("/echo", data=data, headers={"Content-Encoding": encoding})
    assert response.status_code == 413
    assert "capacity limit" in error_of(response)


@pytest.mark.parametrize("encoding", COMPRESS)
def test_a_decompression_bomb_is_413_and_uses_little_memory(
    encoding: str, client: FlaskClient
) -> None:
    data = COMPRESS[encoding](bytes(200 * LIMIT))
    headers = {"Content-Encoding": encoding}
    client.post("/echo", data=data, headers=headers)
    tracemalloc.start()
    try:
        assert client.post("/echo", data=data, headers=headers).status_code == 413
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 * LIMIT


@pytest.mark.parametrize("encoding", COMPRESS)
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lambda data: data[:-1], "its {} data is cut off", id="trailer cut off"),
        pytest.param(lambda data: data[:12], "its {} data is cut off", id="cut off in the middle"),
        pytest.param(lambda data: b"", "its {} data is cut off", id="nothing at all"),
        pytest.param(lambda data: data + b"ab", "2 bytes after its {} data", id="trailing bytes"),
        pytest.param(lambda data: b"{}" + data, "it is not {}: ", id="another format"),
        pytest.param(
            lambda data: data[:-2] + bytes(byte ^ 255 for byte in data[-2:]),
            "it is not {}: ",
            id="a wrong checksum",
        ),
    ],
)
def test_a_damaged_body_is_400_with_the_reason(
    client: FlaskClient, encoding: str, damage: Callable[[bytes], bytes], message: str
) -> None:
    data = damage(COMPRESS[encoding](b"full to the brim"))
    response = client.post(
        "/echo",
        data=data,
        headers={"Content-Encoding": encoding},
        environ_overrides={"CONTENT_LENGTH": str(len(data))},
    )
    assert response.status_code == 400
    assert error_of(response).startswith(f"body: {message.format(encoding)}")


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, deflate", "x-gzip"])
def test_an_unsupported_encoding_is_415(client: FlaskClient, encoding: str) -> None:
    response = client.post("/echo", data=b"full", headers={"Content-Encoding": encoding})
    assert response.status_code == 415
    assert error_of(response) == (
        f"Content-Encoding {encoding!r}, expected gzip, deflate or identity"
    )


def test_a_body_of_unknown_length_is_411(client: FlaskClient) -> None:
    response = client.post("/echo")
    assert response.status_code == 411
    assert error_of(response) == "the request says neither Content-Length nor Transfer-Encoding"


class Unread(io.BytesIO):
    """A body that must not be read."""

    def read(self, _size: int | None = -1) -> bytes:
        raise AssertionError("the body was read")

    readinto = readline = read  # type: ignore[assignment]


def test_a_too_large_content_length_is_413_before_the_body_is_read(client: FlaskClient) -> None:
    response = client.post(
        "/echo",
        input_stream=Unread(),
        environ_overrides={"CONTENT_LENGTH": str(LIMIT + 1)},
    )
    assert response.status_code == 413


@pytest.mark.parametrize(("size", "status"), [(LIMIT, 200), (LIMIT + 1, 413)])
def test_the_size_of_a_chunked_body_is_checked_while_it_is_read(
    client: FlaskClient, size: int, status: int
) -> None:
    response = client.post(
        "/echo",
        input_stream=io.BytesIO(b"7" * size),
        environ_overrides={"wsgi.input_terminated": True},
    )
    assert response.status_code == status


class Stream(io.BytesIO):
    """A body that arrives in parts, and records the sizes of the reads."""

    def __init__(self, *parts: bytes) -> None:
        super().__init__()
        self.parts = list(parts)
        self.asked: list[int | None] = []

    def read(self, size: int | None = -1) -> bytes:
        self.asked.append(size)
        return self.parts.pop(0) if self.parts else b""


@pytest.mark.parametrize(
    ("parts", "length", "said", "asked"),
    [
        pytest.param([b"full"], "4", b"full", [4], id="in one part"),
        pytest.param([b"fu", b"l", b"l"], "4", b"full", [4, 2, 1], id="in several parts"),
        pytest.param([b"fu"], "4", b"fu", [4, 2], id="cut off"),
        pytest.param([], "0", b"", [0], id="empty"),
        pytest.param([b"7" * LIMIT], str(LIMIT), b"7" * LIMIT, [LIMIT], id="at the limit"),
    ],
)
def test_a_plain_body_is_read_at_once_if_the_server_ends_the_stream(
    client: FlaskClient, parts: list[bytes], length: str, said: bytes, asked: list[int]
) -> None:
    stream = Stream(*parts)
    more = {"CONTENT_LENGTH": length, "wsgi.input_terminated": True}
    response = client.post("/echo", input_stream=stream, environ_overrides=more)
    assert (response.status_code, response.data) == (200, said)
    assert stream.asked == asked


@pytest.mark.parametrize(
    ("more", "status"),
    [
        pytest.param({"CONTENT_LENGTH": str(LIMIT + 1)}, 413, id="too large"),
        pytest.param({"CONTENT_LENGTH": "9" * 100}, 413, id="far too large"),
        pytest.param({"HTTP_CONTENT_ENCODING": "br"}, 415, id="an unknown encoding"),
    ],
)
def test_a_refused_body_is_not_read_if_the_server_ends_the_stream(
    client: FlaskClient, more: dict[str, str], status: int
) -> None:
    more = {"CONTENT_LENGTH": "4", "wsgi.input_terminated": True, **more}  # type: ignore[dict-item]
    response = client.post("/echo", input_stream=Unread(), environ_overrides=more)
    assert response.status_code == status


@pytest.mark.parametrize(
    "more",
    [
        *({"CONTENT_LENGTH": length} for length in ("9" * 5000, "-4", "4.0", "\xb2")),
        {"CONTENT_LENGTH": "2", "HTTP_TRANSFER_ENCODING": "chunked"},
    ],
)
def test_a_malformed_length_is_ignored(client: FlaskClient, more: dict[str, str]) -> None:
    more = {"wsgi.input_terminated": True, **more}  # type: ignore[dict-item]
    response = client.post("/echo", input_stream=io.BytesIO(b"full"), environ_overrides=more)
    assert (response.status_code, response.data) == (200, b"full")


def test_a_cut_off_body_is_400_if_the_server_does_not_end_the_stream(
    client: FlaskClient,
) -> None:
    more = {"CONTENT_LENGTH": "4"}
    response = client.post("/echo", input_stream=io.BytesIO(b"fu"), environ_overrides=more)
    assert response.status_code == 400


@pytest.mark.parametrize("terminated", [True, False])
@pytest.mark.parametrize("encoding", [None, "gzip"])
def test_a_body_that_a_hook_has_already_read_is_still_available(
    client: FlaskClient, encoding: str | None, terminated: bool
) -> None:
    client.application.before_request(lambda: request.get_data() and None)
    response = client.post(
        "/echo",
        data=b"full" if encoding is None else gzip.compress(b"full"),
        headers={} if encoding is None else {"Content-Encoding": encoding},
        environ_overrides={"wsgi.input_terminated": True} if terminated else {},
    )
    assert response.data == b"full"


def test_a_hook_may_set_the_limit_of_its_own_requests(client: FlaskClient) -> None:
    @client.application.before_request
    def limit() -> None:
        request.max_content_length = 3

    more = {"wsgi.input_terminated": True}
    assert client.post("/echo", data=b"ful", environ_overrides=more).status_code == 200
    assert client.post("/echo", data=b"full", environ_overrides=more).status_code == 413


@pytest.mark.parametrize(
    "headers", [{}, {"Content-Length": "0"}], ids=["no length", "a length of 0"]
)
def test_an_optional_body_may_be_missing(client: FlaskClient, headers: dict[str, str]) -> None:
    assert client.post("/optional", headers=headers).data == b"nothing"


def test_an_optional_body_is_checked_like_any_other(client: FlaskClient) -> None:
    assert client.post("/optional", data=b"full").data == b"full"
    response = client.post("/optional", data=b"full", headers={"Content-Encoding": "br"})
    assert response.status_code == 415


# --- responses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        pytest.param("gzip", "gzip", id="gzip"),
        pytest.param("deflate", "deflate", id="deflate"),
        pytest.param("deflate, gzip", "gzip", id="gzip before deflate"),
        pytest.param("gzip;q=0, deflate", "deflate", id="q=0 refuses gzip"),
        pytest.param("*", "gzip", id="gzip for any encoding"),
    ],
)
def test_a_large_response_is_compressed_if_the_client_accepts_it(
    client: FlaskClient, accepted: str, encoding: str
) -> None:
    response = client.get(f"/{MIN_COMPRESSED}", headers={"Accept-Encoding": accepted})
    assert response.headers["Content-Encoding"] == encoding
    assert "Accept-Encoding" in response.headers["Vary"]
    assert int(response.headers["Content-Length"]) == len(response.data) < MIN_COMPRESSED
    plain = zlib.decompress(response.data, 32 + zlib.MAX_WBITS)
    assert plain == b"7" * MIN_COMPRESSED


@pytest.mark.parametrize(
    ("size", "accepted"),
    [
        pytest.param(MIN_COMPRESSED - 1, "gzip", id="small"),
        pytest.param(MIN_COMPRESSED, None, id="no accept-encoding"),
        pytest.param(MIN_COMPRESSED, "br, identity", id="another encoding"),
        pytest.param(MIN_COMPRESSED, "gzip;q=0", id="gzip refused"),
    ],
)
def test_other_responses_are_sent_uncompressed(
    client: FlaskClient, size: int, accepted: str | None
) -> None:
    headers = {} if accepted is None else {"Accept-Encoding": accepted}
    response = client.get(f"/{size}", headers=headers)
    assert "Content-Encoding" not in response.headers
    assert response.data == b"7" * size


class NoChunks(io.BytesIO):
    """A chunked body that the server cannot parse."""

    def readinto(self, _buffer: object) -> int:
        raise InvalidChunkSize(b"zz")

    read = readinto  # type: ignore[assignment]


def test_a_malformed_chunked_body_is_400(served: Served) -> None:
    said = served.client.post(
        "/v2/models/puppet/infer",
        input_stream=NoChunks(),
        headers={"Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True},
    )
    assert said.status_code == 400
    assert said.get_json()["error"].startswith("body: it cannot be read: ")
