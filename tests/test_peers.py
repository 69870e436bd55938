"""The comparison with other servers uses the same rows, functions and buckets.

The servers themselves need their own environments and are started by `make peers` alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.client import parse_headers
from io import BytesIO
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from app import settings
from benchmarks.peers import bodies, encoder, measure, running, servers, tables
from benchmarks.peers.bodies import Encoding
from benchmarks.peers.functions import MODELS, ROWS, Function
from benchmarks.peers.measure import Job, Seen
from benchmarks.peers.running import Running, Skipped
from benchmarks.peers.servers import SERVERS, Server, Start
from benchmarks.peers.tables import Cell, Results
from engine.models import weights
from engine.models.families.bert.directory import BertShape
from engine.models.families.bert.encoder import SentenceEncoder
from engine.models.families.bert.modules import Head

KINDS = [(name, encoding) for name, each in SERVERS.items() for encoding in each.encodings]
HERE = Running(1, ())


@pytest.fixture(scope="module")
def null() -> Job:
    return Job("null")


# --- the same rows --------------------------------------------------------------------------------


def taken_apart(request: bytes) -> tuple[str, dict[str, str], bytes]:
    line, _, rest = request.partition(b"\r\n")
    head, _, body = rest.partition(b"\r\n\r\n")
    headers = dict(parse_headers(BytesIO(head + b"\r\n\r\n")).items())
    assert int(headers["Content-Length"]) == len(body)
    method, path, version = line.decode().split(" ")
    assert (method, version) == ("POST", "HTTP/1.1")
    return path, headers, body


def row_in(path: str, headers: dict[str, str], body: bytes) -> list[float]:
    """Decode a body with each server's own code."""
    protocol = path == "/v2/models/null/infer"
    if headers["Content-Type"] == "application/json":
        said = json.loads(body)
        if not protocol:
            return list(said["x"])
        (tensor,) = said["inputs"]
        assert (tensor["name"], tensor["datatype"], tensor["shape"]) == ("x", "FP32", [1, 16])
        return list(np.ravel(tensor["data"]))
    start = int(headers["Inference-Header-Content-Length"]) if protocol else 0
    return np.frombuffer(body[start:], "<f4").tolist()


@pytest.mark.parametrize(("name", "encoding"), KINDS)
def test_the_request_to_each_server_carries_the_same_rows(
    null: Job, name: str, encoding: Encoding
) -> None:
    how = measure.settings_of("http://127.0.0.1:1", encoding)
    plan = null.plan(SERVERS[name], encoding, how)
    sent = [row_in(*taken_apart(request.message)) for request in plan.requests]
    assert np.array_equal(np.asarray(sent, np.float32), null.rows)


ROW = np.arange(16, dtype=np.float32) / 7
OIP = {"outputs": [{"name": "y", "shape": [1, 16], "data": ROW.tolist()}]}
JSON, BYTES = {"content-type": "application/json; charset=utf-8"}, "application/octet-stream"
ANSWERS = {
    "the protocol's JSON": (None, JSON, json.dumps(OIP).encode()),
    "the protocol's binary tensor": (
        None,
        {"content-type": BYTES, "inference-header-content-length": "2"},
        b"{}" + ROW.tobytes(),
    ),
    "plain JSON": ("/predict", JSON, json.dumps({"y": ROW.tolist()}).encode()),
    "bytes": ("/predict", {"content-type": BYTES}, ROW.tobytes()),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_the_answers_of_all_servers_are_the_same_row(null: Job, kind: str) -> None:
    assert np.array_equal(bodies.answer(ANSWERS[kind][0], null.model, *ANSWERS[kind][1:]), ROW)


# --- the same functions and buckets ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["null", "mlp"])
def test_a_row_in_a_padded_batch_gets_the_answer_of_the_row_alone(name: str) -> None:
    function, model = Function(name, buckets=(1, 2, 4)), MODELS[name]()
    x = np.random.default_rng(0).standard_normal((4, *function.shape)).astype(np.float32)
    for count in range(1, 5):
        got = function(x[:count])
        expected = model.program.apply(model.program.params, {"x": x[:count]})["y"]
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_the_encoder_computes_the_same_as_brims(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = BertShape(50, 40, 2, 24, 48, 2, encoder.HEADS, "gelu", encoder.EPSILON)
    arrays = made_up(shape)
    graphdef, params = weights.fill(
        lambda rngs: SentenceEncoder(shape, Head(stages=("normalize",)), rngs), arrays
    )
    ids = np.random.default_rng(1).integers(0, 50, (3, encoder.TOKENS), dtype=np.int32)
    from flax import nnx

    ours = jax.jit(lambda: nnx.merge(graphdef, params)(ids, np.ones_like(ids)))()
    theirs = jax.jit(lambda: encoder.encode(arrays, {"x": ids})["y"])()
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


def made_up(shape: BertShape) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    hidden, wide = shape.hidden, shape.intermediate
    sizes: dict[str, tuple[int, ...]] = {
        "word.embedding": (shape.vocabulary, hidden),
        "position.embedding": (shape.positions, hidden),
        "token_type.embedding": (shape.token_types, hidden),
        "norm.scale": (hidden,),
        "norm.bias": (hidden,),
    }
    for layer in range(shape.layers):
        linear = {
            "qkv": (hidden, 3 * hidden),
            "attended": (hidden, hidden),
            "up": (hidden, wide),
            "down": (wide, hidden),
        }
        for name, size in linear.items():
            sizes[f"layers.{layer}.{name}.kernel"] = size
            sizes[f"layers.{layer}.{name}.bias"] = size[1:]
        for name in ("attended_norm", "down_norm"):
            sizes[f"layers.{layer}.{name}.scale"] = (hidden,)
            sizes[f"layers.{layer}.{name}.bias"] = (hidden,)
    return {name: rng.normal(0, 0.3, size).astype(np.float32) for name, size in sizes.items()}


def test_brim_is_given_the_same_models_and_buckets(tmp_path: Path) -> None:
    for name, create in MODELS.items():
        server = SERVERS["brim-nohold"]
        start = Start(name, "json", 1, server.bin, tmp_path)
        file = next(part for part in server.command(start) if str(part).endswith(".toml"))
        (config,) = settings.load(Path(file)).models
        assert config.rows == ROWS
        assert config.max_wait_s == 0
        assert config.source.factory == f"{create.__module__}:create"


def test_every_server_has_an_environment_with_the_same_jax_and_numpy() -> None:
    folder = Path(servers.__file__).parent / "requirements"
    pinned = {
        file.stem: {line for line in file.read_text().split("\n") if line and line[0] != "#"}
        for file in folder.glob("*.txt")
    }
    assert {each.environment for each in SERVERS.values()} == {None, *pinned}
    for name, lines in pinned.items():
        assert {"jax==0.10.2", "jaxlib==0.10.2", "numpy==2.4.6"} <= lines, name
        assert all("==" in line for line in lines), name


# --- skipped servers ------------------------------------------------------------------------------

BROKEN = Server("", None, lambda _start: [sys.executable, "-c", "print('no model'); exit(3)"])


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        (replace(BROKEN, environment="absent"), "not installed: `make peers` installs it"),
        (replace(BROKEN, environment="failed"), "not installed: No matching distribution"),
        (BROKEN, "ended with 3 at its start: no model"),
    ],
    ids=["never installed", "installing it failed", "it does not start"],
)
def test_a_server_that_does_not_start_is_skipped_with_the_reason(
    server: Server, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (servers, running):
        monkeypatch.setattr(module, "HOME", tmp_path)
    (tmp_path / "failed.log").write_text("No matching distribution\n")
    with (
        pytest.raises(Skipped, match=reason),
        running.running(server, "null", "json", b"GET / HTTP/1.1\r\n\r\n"),
    ):
        pass


Ask = Callable[[int, bytes], tuple[int, dict[str, str], bytes]]


def answering(rows: Iterator[Any], status: int = 200) -> Ask:
    return lambda _port, _request: (status, JSON, json.dumps({"y": next(rows)}).encode())


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        (lambda y: y[::-1], 200, "answered wrongly"),
        (lambda y: [[None] * 16 for _ in y], 200, "answered wrongly"),
        (lambda y: [row[:5] for row in y], 200, "cannot reshape"),
        (lambda y: y, 500, "answered 500"),
    ],
    ids=["answers of other clients", "not a number", "too short", "not 200"],
)
def test_a_server_that_answers_wrongly_is_skipped(
    null: Job, change: Any, status: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = [answer.tolist() for answer in null.answers]
    monkeypatch.setattr(measure, "ThreadPoolExecutor", InOrder)
    monkeypatch.setattr(measure, "ask", answering(iter(right)))
    measure.check(SERVERS["mosec"], null, "json", HERE)
    monkeypatch.setattr(measure, "ask", answering(iter(change(right)), status))
    with pytest.raises(Skipped, match=reason):
        measure.check(SERVERS["mosec"], null, "json", HERE)


class InOrder:
    """A sequential executor, so that each request gets its own answer."""

    def __init__(self, _threads: int) -> None:
        self.map = map

    def __enter__(self) -> InOrder:
        return self

    def __exit__(self, *_error: object) -> None:
        pass


# --- the numbers ----------------------------------------------------------------------------------


def test_cpu_is_divided_by_the_requests_of_the_same_period() -> None:
    assert measure.cpu_us([(100, 1.0), (150, 1.3), (300, 1.5)]) == pytest.approx(2500)
    assert np.isnan(measure.cpu_us([(100, 1.0)]))
    assert np.isnan(measure.cpu_us([(100, 1.0), (100, 1.0)]))


def test_the_tables_show_medians_ratios_doubts_and_skipped_servers() -> None:
    results = Results()
    for rate in (300.0, 100.0, 200.0):
        results.add(Cell("null", "json", 8, "brim"), Seen(rate, 1.0, 2.0, 10.0))
    results.add(Cell("null", "json", 8, "flask"), Seen(50.0, 3.0, 4.0, 20.0, doubtful=True))
    results.add(Cell("mlp", "json", 8, "mosec"), Seen(1.0, 1.0, 1.0, 1.0))
    results.skip("triton, null, json", "it is not installed")
    speeds = tables.speeds(results, "null", "json").split("\n")
    assert speeds[-3:-1] == [
        "| 8 | brim | 200 | 1.00 | 2.00 | 10 |",
        "| 8 | flask | 50 | 3.00 | 4.00 ? | 20 |",
    ]
    ratios = tables.ratios(results, "null", "json").split("\n")
    assert ratios[0] == "| clients | requests/s by that of | flask |"
    assert ratios[2] == "| 8 | brim | 4.00 |"
    assert "No ratios" in tables.ratios(results, "mlp", "json")
    assert "SKIPPED triton, null, json: it is not installed" in tables.remarks(results)
