"""The bytes of a request, read by the parser and the decoder of a server."""

from __future__ import annotations

import json

import httptools
import numpy as np
import pytest

from app.cli.bench import requests
from app.cli.bench.plan import BenchError, Settings, Target
from app.http.codecs import oip
from app.http.codecs.messages import InferRequest
from engine.models.tensors import Arrays, TensorSpec

SPECS = (
    TensorSpec("x", "FP32", (2,)),
    TensorSpec("n", "INT64", ()),
    TensorSpec("t", "BYTES", (1,)),
)
ARRAYS: Arrays = {
    "x": np.array([[1.5, -2.0], [0.25, 1e-9]], np.float32),
    "n": np.array([1, -5]),
    "t": np.array([["ä".encode()], [b""]], object),
}
OUTPUTS = (TensorSpec("y", "FP32", ()),)


class Received:
    """One request, parsed by httptools."""

    def __init__(self, request: bytes) -> None:
        self.headers: dict[str, str] = {}
        self.url = self.body = b""
        self.complete = 0
        parser = httptools.HttpRequestParser(self)
        parser.feed_data(request)
        self.method = parser.get_method()

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode().lower()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete += 1

    def decoded(self) -> InferRequest:
        length = self.headers.get("inference-header-content-length")
        return oip.decode(self.body, None if length is None else int(length), SPECS, OUTPUTS)


def received(**fields: object) -> Received:
    settings = Settings("http://server:81", clients=1, **fields)  # type: ignore[arg-type]
    return Received(requests.encode(settings, Target("m", 2), SPECS, ARRAYS).message)


@pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
def test_a_server_decodes_the_arrays_that_were_sent(binary: bool) -> None:
    got = received(binary=binary)
    assert (got.method, got.url, got.complete) == (b"POST", b"/v2/models/m/infer", 1)
    assert got.headers["host"] == "server:81"
    for name, array in got.decoded().inputs.items():
        np.testing.assert_array_equal(array, ARRAYS[name])
        assert array.dtype == ARRAYS[name].dtype


def test_a_binary_request_asks_for_a_binary_answer_and_a_json_one_does_not() -> None:
    assert received(binary=True).decoded().binary == {"y"}
    assert received().decoded().binary == frozenset()


@pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
def test_a_deadline_is_sent_as_a_parameter_and_as_a_header(binary: bool) -> None:
    got = received(binary=binary, deadline_ms=12.5)
    assert got.decoded().timeout_s == 0.0125
    assert got.headers["x-request-timeout-ms"] == "12.5"


def test_without_a_deadline_none_is_sent() -> None:
    got = received()
    assert "parameters" not in json.loads(got.body)
    assert "x-request-timeout-ms" not in got.headers


def test_a_datatype_without_a_json_form_is_refused_with_a_remedy() -> None:
    spec = TensorSpec("h", "FP16", ())
    arrays = {"h": np.zeros(1, np.float16)}
    with pytest.raises(BenchError, match=r"^h: FP16 has no JSON form; use --binary$"):
        requests.encode(Settings("http://server", clients=1), Target("m"), (spec,), arrays)
    requests.encode(Settings("http://server", clients=1, binary=True), Target("m"), (spec,), arrays)
