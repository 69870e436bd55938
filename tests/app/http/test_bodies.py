"""Request bodies obey the size limit, compressed or not; large responses are compressed."""

from __future__ import annotations

import gzip
import io
import time
import tracemalloc
import zlib
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from flask import Flask, Response, request
from flask.testing import FlaskClient
from gunicorn.http.errors import InvalidChunkSize
from hypothesis import given
from hypothesis import strategies as st

from app.http import bodies as body
from app.http import errors
from app.http.bodies import MIN_COMPRESSED
from app.http.hooks import BrimRequest
from app.settings import Limits
from app.worker.limits.budget import ByteBudget
from app.worker.limits.limits import LimitExceeded
from app.worker.suspension import EXCHANGE, Exchange
from tests.app.conftest import Serve, Served, error_of
from tests.app.conftest import body as infer_body

LIMIT = 100_000
UNPACKED = 50_000
COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}


@pytest.fixture
def client() -> FlaskClient:
    """An app that echoes the body, and a route with a response of any size."""
    app = Flask("bodies")
    app.request_class = BrimRequest
    app.config["MAX_CONTENT_LENGTH"] = LIMIT
    app.extensions["brim"] = SimpleNamespace(
        limits=Limits(max_body_bytes=LIMIT, max_decompressed_bytes=UNPACKED),
        budget=ByteBudget(),
        limited=[].append,
    )
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


@pytest.mark.parametrize("encoding", [{}, {"HTTP_CONTENT_ENCODING": "gzip"}], ids=["plain", "gzip"])
def test_a_body_that_ends_early_is_refused(client: FlaskClient, encoding: dict[str, str]) -> None:
    """gunicorn's gthread calls the app all the same: what came may be valid JSON by itself."""
    more = {"CONTENT_LENGTH": "10", "wsgi.input_terminated": True} | encoding
    response = client.post("/echo", input_stream=io.BytesIO(b"{}"), environ_overrides=more)
    assert response.status_code == 400
    assert error_of(response) == "body: it ended after 2 bytes, and Content-Length is 10"


@pytest.mark.parametrize("said", ["gzip", "deflate", " GZIP "])
@pytest.mark.parametrize("plain", [b"", b"full", b"7" * UNPACKED], ids=["empty", "short", "limit"])
def test_a_compressed_body_is_read_up_to_the_limit(
    client: FlaskClient, said: str, plain: bytes
) -> None:
    data = COMPRESS[said.strip().lower()](plain)
    response = client.post("/echo", data=data, headers={"Content-Encoding": said})
    assert (response.status_code, response.data) == (200, plain)


@pytest.mark.parametrize("encoding", COMPRESS)
@pytest.mark.parametrize("beyond", [1, 200 * UNPACKED], ids=["one byte", "a bomb"])
def test_a_body_that_decompresses_beyond_the_limit_is_413(
    client: FlaskClient, encoding: str, beyond: int
) -> None:
    data = COMPRESS[encoding](b"7" * (UNPACKED + beyond))
    assert len(data) < LIMIT
    response = client.post("/echo", data=data, headers={"Content-Encoding": encoding})
    assert response.status_code == 413
    assert error_of(response) == (
        f"the {encoding} body is larger than limits.max_decompressed_bytes, {UNPACKED}"
    )


@given(
    plain=st.binary(max_size=2000) | st.binary(max_size=20).map(lambda part: part * 500),
    limit=st.integers(1, 3000),
    encoding=st.sampled_from(sorted(COMPRESS)),
    level=st.integers(0, 9),
)
def test_decompression_gives_the_whole_or_nothing_beyond_its_limit(
    plain: bytes, limit: int, encoding: str, level: int
) -> None:
    window = {"gzip": 31, "deflate": 15}[encoding]
    stream = zlib.compressobj(level, zlib.DEFLATED, window)
    data = stream.compress(plain) + stream.flush()
    if len(plain) <= limit:
        assert body.decompress(data, encoding, limit) == plain
    else:
        with pytest.raises(LimitExceeded, match="max_decompressed_bytes"):
            body.decompress(data, encoding, limit)


@pytest.mark.parametrize("encoding", COMPRESS)
def test_a_decompression_bomb_is_413_and_uses_little_memory(
    encoding: str, client: FlaskClient
) -> None:
    data = COMPRESS[encoding](bytes(200 * UNPACKED))
    headers = {"Content-Encoding": encoding}
    client.post("/echo", data=data, headers=headers)
    tracemalloc.start()
    try:
        assert client.post("/echo", data=data, headers=headers).status_code == 413
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 * UNPACKED


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


@pytest.mark.parametrize("ends", [True, False], ids=["the server ends it", "nothing does"])
def test_a_body_of_unknown_length_is_411(client: FlaskClient, ends: bool) -> None:
    # without either header, gunicorn guesses that there is no body, and ends the stream
    response = client.post("/echo", environ_overrides={"wsgi.input_terminated": ends})
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


# --- limits of the app ----------------------------------------------------------------------------

INFER = "/v2/models/puppet/infer"


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        pytest.param(INFER, {}, id="inference"),
        pytest.param(INFER, {"Inference-Header-Content-Length": "101"}, id="the JSON of a binary"),
        pytest.param("/v1/embeddings", {}, id="embeddings"),
        pytest.param("/v2/repository/index", {}, id="the index"),
    ],
)
@pytest.mark.parametrize("encoding", [None, "gzip"])
def test_more_json_than_the_limit_is_413_and_counted(
    serve: Serve, path: str, headers: dict[str, str], encoding: str | None
) -> None:
    served = serve(limits=Limits(max_json_bytes=100))
    assert served.client.post(path, data=b" " * 100, headers=headers).status_code == 400
    data = b" " * 101
    if encoding is not None:
        data, headers = gzip.compress(data), {**headers, "Content-Encoding": encoding}
    for _ in range(2):  # the second one without Flask's context, where that is possible
        said = served.client.post(path, data=data, headers=headers)
        assert said.status_code == 413
        problem = "the body has 101 bytes of JSON, and limits.max_json_bytes is 100"
        assert problem in str(said.get_json())
    assert served.sample("brim_http_limited_total", limit="max_json_bytes") == 2
    assert served.sample("brim_http_limited_total", limit="max_body_bytes") == 0


@pytest.mark.parametrize(
    ("sent", "size"), [("x" * 12, 12), ("x" * 13, 13), ("ü" * 6, 12), ("ü" * 7, 14)]
)
def test_an_id_beyond_its_limit_is_400_and_counted(serve: Serve, sent: str, size: int) -> None:
    served = serve(limits=Limits(max_id_bytes=12))
    served.release()
    said = served.client.post(INFER, json=infer_body(1.0, id=sent))
    if size <= 12:
        assert said.get_json()["id"] == sent
    else:
        assert said.status_code == 400
        assert error_of(said) == f"id: it has {size} bytes, and limits.max_id_bytes is 12"
    assert served.sample("brim_http_limited_total", limit="max_id_bytes") == (size > 12)


def test_binary_tensors_do_not_count_as_json(serve: Serve) -> None:
    served = serve(limits=Limits(max_json_bytes=8))
    headers = {"Inference-Header-Content-Length": "0"}
    said = served.client.post(INFER, data=bytes(8), headers=headers)
    assert said.status_code == 200


BUDGET = 80_000
"""Of which large bodies may use 70,000."""


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize(
    ("held", "size", "status"),
    [
        pytest.param(BUDGET - 500, 500, 400, id="the last room"),
        pytest.param(BUDGET - 500, 501, 503, id="one byte too many"),
        pytest.param(0, 70_000, 400, id="a large body"),
        pytest.param(0, 70_001, 503, id="a large body leaves an eighth to small ones"),
        pytest.param(2 * BUDGET, 1, 503, id="more is held than there may be"),
    ],
)
def test_a_body_without_room_is_503_and_may_be_sent_again(
    serve: Serve, held: int, size: int, status: int, direct: bool
) -> None:
    served = serve(limits=Limits(max_bytes_in_flight=BUDGET))
    more = {"wsgi.input_terminated": True} if direct else {}
    if direct:  # the second request needs none of Flask's context
        served.client.post(INFER, data=b" ", environ_overrides=more)
    budget = served.services.budget
    budget.add(held)
    said = served.client.post(INFER, data=b" " * size, environ_overrides=more)
    assert said.status_code == status
    assert budget.held == held
    if status == 503:
        assert said.headers["Retry-After"] == "1"
        text = f"no room for this body now: limits.max_bytes_in_flight is {BUDGET}"
        assert error_of(said) == text
    counted = served.sample("brim_http_limited_total", limit="max_bytes_in_flight")
    assert counted == (status == 503)


def test_a_compressed_body_needs_room_for_what_comes_out_of_it(serve: Serve) -> None:
    served = serve(limits=Limits(max_bytes_in_flight=BUDGET, max_decompressed_bytes=60_000))
    budget = served.services.budget
    data = gzip.compress(b" " * 50_000)
    headers = {"Content-Encoding": "gzip"}
    assert served.client.post(INFER, data=data, headers=headers).status_code == 400
    budget.add(20_000)
    assert served.client.post(INFER, data=data, headers=headers).status_code == 503
    assert budget.held == 20_000


def test_brims_worker_has_counted_the_body_already(serve: Serve) -> None:
    served = serve(limits=Limits(max_bytes_in_flight=BUDGET))
    served.services.budget.add(BUDGET)
    counted = {EXCHANGE: Exchange(time.monotonic())}
    said = served.client.post(INFER, data=b" ", environ_overrides=counted)
    assert said.status_code == 400
