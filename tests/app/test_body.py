"""Bodies: compressed or not, none is larger than the limit, on the way in; on the way out, a large
answer is compressed for whoever asked for that.
"""

from __future__ import annotations

import gzip
import io
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
from flask import Flask, Response
from flask.testing import FlaskClient

from app import body, errors
from app.body import SMALLEST_COMPRESSED
from tests.app.conftest import error_of

LIMIT = 100_000
COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}


@pytest.fixture
def client() -> FlaskClient:
    """An app that says what it read, and a route with an answer of any size."""
    app = Flask("bodies")
    app.config["MAX_CONTENT_LENGTH"] = LIMIT
    errors.register(app)

    @app.post("/echo")
    def echo() -> bytes:
        return body.read()

    @app.post("/optional")
    def optional() -> bytes:
        return body.read_optional() or b"nothing"

    @app.get("/<int:size>")
    def answer(size: int) -> Response:
        return body.compress(Response(b"7" * size), body.accepted())

    return app.test_client()


# --- in -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", [None, "", "identity", "Identity"])
def test_a_plain_body_is_read_as_it_is(client: FlaskClient, encoding: str | None) -> None:
    headers = {} if encoding is None else {"Content-Encoding": encoding}
    assert client.post("/echo", data=b"full", headers=headers).data == b"full"


@pytest.mark.parametrize("said", ["gzip", "deflate", " GZIP "])
@pytest.mark.parametrize("plain", [b"", b"full", b"7" * LIMIT], ids=["empty", "short", "limit"])
def test_a_compressed_body_is_read_up_to_the_very_limit(
    client: FlaskClient, said: str, plain: bytes
) -> None:
    data = COMPRESS[said.strip().lower()](plain)
    response = client.post("/echo", data=data, headers={"Content-Encoding": said})
    assert (response.status_code, response.data) == (200, plain)


@pytest.mark.parametrize("encoding", COMPRESS)
@pytest.mark.parametrize("beyond", [1, 200 * LIMIT], ids=["one byte", "a bomb"])
def test_what_decompresses_beyond_the_limit_is_413(
    client: FlaskClient, encoding: str, beyond: int
) -> None:
    data = COMPRESS[encoding](b"7" * (LIMIT + beyond))
    assert len(data) < LIMIT
    response = client.post("/echo", data=data, headers={"Content-Encoding": encoding})
    assert response.status_code == 413
    assert "capacity limit" in error_of(response)


@pytest.mark.parametrize("encoding", COMPRESS)
def test_a_bomb_never_goes_off(encoding: str, client: FlaskClient) -> None:
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
            id="a checksum that does not fit",
        ),
    ],
)
def test_a_damaged_body_is_400_and_says_how(
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
def test_an_encoding_that_is_not_understood_is_415(client: FlaskClient, encoding: str) -> None:
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
    """A body that must not be touched."""

    def read(self, _size: int | None = -1) -> bytes:
        raise AssertionError("somebody reads")

    readinto = readline = read  # type: ignore[assignment]


def test_a_body_that_says_it_is_too_large_is_413_before_it_is_read(client: FlaskClient) -> None:
    response = client.post(
        "/echo",
        input_stream=Unread(),
        environ_overrides={"CONTENT_LENGTH": str(LIMIT + 1)},
    )
    assert response.status_code == 413


@pytest.mark.parametrize(("size", "status"), [(LIMIT, 200), (LIMIT + 1, 413)])
def test_a_chunked_body_is_counted_while_it_is_read(
    client: FlaskClient, size: int, status: int
) -> None:
    response = client.post(
        "/echo",
        input_stream=io.BytesIO(b"7" * size),
        environ_overrides={"wsgi.input_terminated": True},
    )
    assert response.status_code == status


@pytest.mark.parametrize(
    "headers", [{}, {"Content-Length": "0"}], ids=["no length", "a length of 0"]
)
def test_an_optional_body_may_be_missing(client: FlaskClient, headers: dict[str, str]) -> None:
    assert client.post("/optional", headers=headers).data == b"nothing"


def test_an_optional_body_that_is_there_is_read_with_all_the_care(client: FlaskClient) -> None:
    assert client.post("/optional", data=b"full").data == b"full"
    response = client.post("/optional", data=b"full", headers={"Content-Encoding": "br"})
    assert response.status_code == 415


# --- out ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        pytest.param("gzip", "gzip", id="gzip"),
        pytest.param("deflate", "deflate", id="deflate"),
        pytest.param("deflate, gzip", "gzip", id="gzip before deflate"),
        pytest.param("gzip;q=0, deflate", "deflate", id="q=0 is no"),
        pytest.param("*", "gzip", id="anything is gzip"),
    ],
)
def test_a_large_answer_is_compressed_for_whoever_accepts_it(
    client: FlaskClient, accepted: str, encoding: str
) -> None:
    response = client.get(f"/{SMALLEST_COMPRESSED}", headers={"Accept-Encoding": accepted})
    assert response.headers["Content-Encoding"] == encoding
    assert "Accept-Encoding" in response.headers["Vary"]
    assert int(response.headers["Content-Length"]) == len(response.data) < SMALLEST_COMPRESSED
    plain = zlib.decompress(response.data, 32 + zlib.MAX_WBITS)
    assert plain == b"7" * SMALLEST_COMPRESSED


@pytest.mark.parametrize(
    ("size", "accepted"),
    [
        pytest.param(SMALLEST_COMPRESSED - 1, "gzip", id="small"),
        pytest.param(SMALLEST_COMPRESSED, None, id="nobody asked"),
        pytest.param(SMALLEST_COMPRESSED, "br, identity", id="asked for another"),
        pytest.param(SMALLEST_COMPRESSED, "gzip;q=0", id="asked not to"),
    ],
)
def test_other_answers_are_sent_as_they_are(
    client: FlaskClient, size: int, accepted: str | None
) -> None:
    headers = {} if accepted is None else {"Accept-Encoding": accepted}
    response = client.get(f"/{size}", headers=headers)
    assert "Content-Encoding" not in response.headers
    assert response.data == b"7" * size
