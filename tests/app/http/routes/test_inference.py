"""The inference routes: what a client is told, whether it goes well or not."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from werkzeug.test import TestResponse

from app.http.routes.inference import HEADER_LENGTH
from engine.errors import BrimError, Cancelled, QueueFull
from engine.models.config import ModelConfig
from engine.models.model import Model
from engine.models.processor import Prepared
from engine.models.tensors import LENGTH, Arrays, TensorSpec
from engine.runtime.pending import Pending
from engine.runtime.request import QueuedRequest
from engine.scheduling.request_queue import DEFAULT_PRIORITY
from engine.testing import (
    PUPPET_SPEC_IN,
    PUPPET_SPEC_OUT,
    FakeClock,
    PuppetCompiler,
    puppet_config,
    puppet_model,
    rows,
    submit,
)
from tests.app.conftest import PATIENCE_S, Serve, Served, answer, body, error_of
from tests.app.wire import binary

INFER = "/v2/models/puppet/infer"


def double_and_negate(inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
    return {"y": inputs["x"] * 2 + 1, "z": -inputs["x"]}


def two_outputs(_config: ModelConfig) -> Model:
    return puppet_model(outputs=(PUPPET_SPEC_OUT, TensorSpec("z", "FP32", (2,))))


# --- it goes well ---------------------------------------------------------------------------------


def test_a_request_is_answered_in_the_protocols_form(served: Served) -> None:
    response = served.client.post(INFER, json=body(1.0, 2.0, id="seven"))
    assert response.status_code == 200
    assert response.content_type == "application/json"
    assert response.get_json() == {
        "model_name": "puppet",
        "model_version": "1",
        "id": "seven",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [2, 2], "data": answer(1.0, 2.0)}],
    }


def test_a_request_larger_than_every_bucket_is_answered_in_order(served: Served) -> None:
    values = [float(v) for v in range(11)]
    assert served.infer(*values).get_json()["outputs"][0]["data"] == answer(*values)


def test_a_client_gets_the_outputs_that_it_asks_for(serve: Serve) -> None:
    served = serve(model=two_outputs, compiler=PuppetCompiler(double_and_negate))
    everything = served.infer(1.0).get_json()
    assert [output["name"] for output in everything["outputs"]] == ["y", "z"]
    asked = served.client.post(INFER, json=body(1.0, outputs=[{"name": "z"}])).get_json()
    assert asked["outputs"] == [{"name": "z", "datatype": "FP32", "shape": [1, 2], "data": [-1, 1]}]


def test_what_preprocessing_says_of_a_request_is_in_its_answer(serve: Serve) -> None:
    def cut(inputs: Arrays) -> Prepared:
        whole = inputs["x"]
        return Prepared({"x": whole[:, :2]}, {"truncated": whole.shape[1] > 2})

    wire = TensorSpec("x", "FP32", (LENGTH,))
    served = serve(
        model=lambda _config: puppet_model(
            inputs=(wire,), preprocess=cut, device_inputs=(PUPPET_SPEC_IN,)
        )
    )
    tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, -1, 9]}
    response = served.client.post(INFER, json={"inputs": [tensor]}).get_json()
    assert response["parameters"] == {"truncated": True}
    assert response["outputs"][0]["data"] == answer(1.0)


def binary_body(*values: float) -> tuple[bytes, dict[str, str]]:
    """A request as `body`, but its rows are binary; and its headers."""
    raw = rows(*values)["x"].tobytes()
    header = json.dumps({"inputs": [binary(PUPPET_SPEC_IN, (len(values), 2), len(raw))]}).encode()
    return header + raw, {HEADER_LENGTH: str(len(header))}


def opened(response: TestResponse) -> tuple[dict[str, Any], bytes]:
    """The JSON part of a binary answer, and what follows."""
    assert response.content_type == "application/octet-stream"
    end = int(response.headers[HEADER_LENGTH])
    return json.loads(response.data[:end]), response.data[end:]


@pytest.mark.parametrize("version", ["", "/versions/1"])
def test_binary_in_and_binary_out(served: Served, version: str) -> None:
    raw = rows(1.0, 2.0)["x"].tobytes()
    tensor = binary(PUPPET_SPEC_IN, (2, 2), len(raw))
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    response = served.client.post(
        f"/v2/models/puppet{version}/infer",
        data=header + raw,
        headers={HEADER_LENGTH: str(len(header))},
    )
    said, after = opened(response)
    assert said == {
        "model_name": "puppet",
        "model_version": "1",
        "outputs": [
            {
                "name": "y",
                "datatype": "FP32",
                "shape": [2, 2],
                "parameters": {"binary_data_size": 16},
            }
        ],
    }
    assert np.frombuffer(after, "<f4").tolist() == answer(1.0, 2.0)


def test_binary_in_and_json_out(served: Served) -> None:
    data, headers = binary_body(1.0)
    response = served.client.post(INFER, data=data, headers=headers)
    assert response.content_type == "application/json"
    assert HEADER_LENGTH not in response.headers
    assert response.get_json()["outputs"][0]["data"] == answer(1.0)


def test_a_raw_tensor_is_answered_in_binary(served: Served) -> None:
    response = served.client.post(
        INFER, data=rows(1.0)["x"].tobytes(), headers={HEADER_LENGTH: "0"}
    )
    said, after = opened(response)
    assert said["outputs"][0]["shape"] == [1, 2]
    assert np.frombuffer(after, "<f4").tolist() == answer(1.0)


def test_outputs_come_in_the_order_and_the_form_that_they_were_asked_for(serve: Serve) -> None:
    served = serve(model=two_outputs, compiler=PuppetCompiler(double_and_negate))
    outputs = [{"name": "z", "parameters": {"binary_data": True}}, {"name": "y"}]
    said, after = opened(served.client.post(INFER, json=body(1.0, outputs=outputs)))
    z, y = said["outputs"]
    assert (z["name"], z["parameters"], "data" in z) == ("z", {"binary_data_size": 8}, False)
    assert (y["name"], y["data"]) == ("y", answer(1.0))
    assert np.frombuffer(after, "<f4").tolist() == [-1, 1]


def test_a_large_answer_is_compressed_and_its_header_length_is_that_of_what_is_inside(
    serve: Serve,
) -> None:
    served = serve(puppet_config(rows=(4096,), max_request_rows=4096))
    raw = rows(*range(4096))["x"].tobytes()
    parameters = {"binary_data_output": True}
    header = json.dumps(
        {"inputs": [binary(PUPPET_SPEC_IN, (4096, 2), len(raw))], "parameters": parameters}
    ).encode()
    response = served.client.post(
        INFER,
        data=gzip.compress(header + raw),
        headers={
            HEADER_LENGTH: str(len(header)),
            "Content-Encoding": "gzip",
            "Accept-Encoding": "gzip",
        },
    )
    assert response.headers["Content-Encoding"] == "gzip"
    plain = gzip.decompress(response.data)
    after = plain[int(response.headers[HEADER_LENGTH]) :]
    assert np.frombuffer(after, "<f4").tolist() == answer(*range(4096))


@pytest.fixture
def submitted(served: Served, monkeypatch: pytest.MonkeyPatch) -> list[QueuedRequest]:
    """All requests, in the order of their arrival."""
    found: list[QueuedRequest] = []
    endpoint = served.engine.endpoint("puppet")
    accept = endpoint.accept

    def watched(results: Sequence[Pending]) -> list[tuple[Pending, BrimError]]:
        found.extend(result.request for result in results)
        return accept(results)

    monkeypatch.setattr(endpoint, "accept", watched)
    return found


def test_the_priority_and_the_timeout_of_a_request_reach_the_engine(
    served: Served, submitted: list[QueuedRequest]
) -> None:
    wishes = {"priority": 3, "timeout": 1_500_000}
    served.client.post(INFER, json=body(1.0, parameters=wishes))
    served.client.post(INFER, json=body(1.0))
    hasty, plain = submitted
    assert (hasty.priority, plain.priority) == (3, DEFAULT_PRIORITY)
    assert hasty.deadline - hasty.enqueued_at == pytest.approx(1.5)
    assert plain.deadline - plain.enqueued_at == pytest.approx(30)


@pytest.mark.parametrize(
    ("header", "parameter", "seconds"),
    [
        pytest.param("250", None, 0.25, id="the header alone"),
        pytest.param("250", 1_500_000, 0.25, id="the header is shorter"),
        pytest.param("2500", 1_500_000, 1.5, id="the parameter is shorter"),
        pytest.param("0.5e3", None, 0.5, id="any way to write a number"),
        pytest.param("60000", None, 30, id="the model's own is shorter"),
    ],
)
def test_a_deadline_may_come_in_a_header_and_the_shorter_one_counts(
    served: Served,
    submitted: list[QueuedRequest],
    header: str,
    parameter: int | None,
    seconds: float,
) -> None:
    parameters = {} if parameter is None else {"timeout": parameter}
    asked = body(1.0, parameters=parameters)
    answered = served.client.post(INFER, json=asked, headers={"X-Request-Timeout-Ms": header})
    assert answered.status_code == 200
    (request,) = submitted
    assert request.deadline - request.enqueued_at == pytest.approx(seconds)


@pytest.mark.parametrize(
    "header", ["", "soon", "-1", "0", "nan", "inf", "1_000", ".", "1.2.3", "1e999", "\u0661"]
)
def test_a_header_that_is_no_time_is_refused_with_what_was_expected(
    served: Served, header: str
) -> None:
    said = served.client.post(INFER, json=body(1.0), headers={"X-Request-Timeout-Ms": header})
    assert said.status_code == 400
    expected = f"X-Request-Timeout-Ms: got {header!r}, expected milliseconds, more than 0"
    assert error_of(said) == expected


def test_a_deadline_that_cannot_be_met_is_refused_at_once_and_says_when_to_come_back(
    serve: Serve, clock: FakeClock
) -> None:
    def slow(inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        clock.advance(2.0)
        return {"y": inputs["x"] * 2 + 1}

    served = serve(
        puppet_config(rows=(1,), in_flight=1), clock=clock, compiler=PuppetCompiler(slow)
    )
    served.hold()
    computing = served.infer_later(1.0)
    served.wait_on_device()
    # 2 s until the device is free, 2 s for its own batch
    refused = served.infer(2.0, headers={"X-Request-Timeout-Ms": "3000"})
    assert refused.status_code == 503
    assert refused.headers["Retry-After"] == "1"
    assert error_of(refused) == (
        "an answer within 3 s cannot be promised: it may take 4 s, 0 rows are waiting"
    )
    counts = served.engine.endpoint("puppet").snapshot().activity.counts
    assert (counts.refused, counts.shed, counts.expired) == (1, 1, 0)
    assert served.sample("brim_refused_total", model="puppet", error="Shed") == 1
    served.release()
    assert computing.result(PATIENCE_S).status_code == 200


BAD: dict[str, tuple[bytes, dict[str, str]]] = {
    "not JSON": (b"nonsense", {}),
    "values that do not fit": (json.dumps(body(1.0) | {"inputs": [{"name": "x"}]}).encode(), {}),
    "a row too long": (json.dumps(body(3.0)).replace("[1, 2]", "[2, 1]").encode(), {}),
    "bytes that are cut off": (binary_body(1.0)[0][:-1], binary_body(1.0)[1]),
    "a header that lies": (binary_body(1.0)[0], {HEADER_LENGTH: "7"}),
    "a raw row too many": (bytes(16), {HEADER_LENGTH: "0"}),
    "a damaged body": (b"no gzip", {"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize(("data", "headers"), BAD.values(), ids=BAD)
def test_a_bad_request_between_two_good_ones_of_one_window_fails_alone(
    serve: Serve, clock: FakeClock, data: bytes, headers: dict[str, str]
) -> None:
    served = serve(puppet_config(rows=(4,), in_flight=1), clock=clock)
    served.hold()
    before = served.infer_later(0.0)
    served.wait_on_device()
    first = served.infer_later(1.0, 2.0)
    served.observer.wait_for("queued", 2)
    bad = served.client.post(INFER, data=data, headers=headers)
    body_, headers_ = binary_body(3.0, 4.0)
    second = served.pool.submit(served.client.post, INFER, data=body_, headers=headers_)
    served.observer.wait_for("queued", 3)
    served.release()
    assert bad.status_code == 400
    assert error_of(bad)
    for asked, values in ((before, (0.0,)), (first, (1.0, 2.0)), (second, (3.0, 4.0))):
        assert asked.result(PATIENCE_S).get_json()["outputs"][0]["data"] == answer(*values)
    (_, (_, report)) = served.observer.wait_for("batch_done", 2)
    assert (report.rows, report.reason) == (4, "full")


def nan_for_seven(inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
    return {"y": np.where(inputs["x"] == 7, np.float32(np.nan), inputs["x"] * 2 + 1)}


def test_rows_that_make_nan_fail_alone_in_their_batch(serve: Serve) -> None:
    served = serve(puppet_config(rows=(4,), in_flight=1), compiler=PuppetCompiler(nan_for_seven))
    served.hold()
    first = served.infer_later(1.0)
    served.wait_on_device()
    bad, good = served.infer_later(7.0), served.infer_later(2.0)
    served.observer.wait_for("queued", 3)
    served.release()
    assert first.result(PATIENCE_S).status_code == 200
    assert good.result(PATIENCE_S).get_json()["outputs"][0]["data"] == answer(2.0)
    response = bad.result(PATIENCE_S)
    assert response.status_code == 422
    assert "NaN or infinity in 'y'" in error_of(response)
    batches = served.observer.wait_for("batch_done", 2)
    assert [report.rows for _, report in batches] == [1, 2]


# --- it does not ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["infer", "", "stats", "ready"])
def test_an_unknown_model_is_404_and_the_known_ones_are_named(served: Served, path: str) -> None:
    url = f"/v2/models/nobody/{path}".rstrip("/")
    response = served.client.open(url, method="POST" if path == "infer" else "GET", json=body(1.0))
    assert response.status_code == 404
    assert error_of(response) == "unknown model 'nobody'; this server has puppet"


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        pytest.param(b"{", "body: not JSON", id="the codec refuses"),
        pytest.param(b'{"inputs": []}', "x: tensor is missing; got none", id="the engine refuses"),
        pytest.param(
            b'{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":[1,2,3]}]}',
            "x: shape [1, 3] does not fit, expected [-1, 2]",
            id="a row is too long",
        ),
        pytest.param(
            b'{"inputs":[{"name":"x","shape":[0,2],"datatype":"FP32","data":[]}]}',
            "x: no rows; expected at least one",
            id="nothing to do",
        ),
    ],
)
def test_a_clients_mistake_is_400_and_reaches_no_queue(
    served: Served, sent: bytes, message: str
) -> None:
    response = served.client.post(INFER, data=sent)
    assert response.status_code == 400
    assert error_of(response).startswith(message)
    assert served.observer.named("queued") == []


@pytest.mark.parametrize(
    "said",
    ["-1", "+8", "1e3", "0x8", "8.0", " ", "eight", "1_0", "\u00b2", "9" * 20, "9" * 10_000],
    ids=lambda said: said[:20].strip() or "blank",
)
def test_a_header_length_that_is_no_number_is_400(served: Served, said: str) -> None:
    response = served.infer(1.0, headers={HEADER_LENGTH: said})
    assert response.status_code == 400
    message = error_of(response)
    assert message.startswith("Inference-Header-Content-Length: got '")
    assert message.endswith("', expected a number of bytes")
    assert len(message) < 150


def test_a_header_length_beyond_the_body_is_400(served: Served) -> None:
    response = served.infer(1.0, headers={HEADER_LENGTH: str(2**63)})
    assert response.status_code == 400
    assert error_of(response).startswith(f"Inference-Header-Content-Length: {2**63} does not fit")


@pytest.mark.parametrize("path", ["", "/ready", "/config", "/stats", "/infer"])
def test_a_version_that_is_not_there_is_404_and_the_one_that_is_is_named(
    served: Served, path: str
) -> None:
    method = "POST" if path == "/infer" else "GET"
    there = served.client.open(f"/v2/models/puppet/versions/1{path}", method=method, json=body(1.0))
    assert there.status_code == 200
    other = served.client.open(f"/v2/models/puppet/versions/2{path}", method=method, json=body(1.0))
    assert other.status_code == 404
    assert error_of(other) == "model 'puppet' has no version '2'; it has 1"


def test_while_a_model_compiles_it_is_503_and_says_when_to_come_back(serve: Serve) -> None:
    compiler = PuppetCompiler()
    compiler.gate = threading.Semaphore(0)
    served = serve(puppet_config(rows=(1, 2, 4)), compiler=compiler, wait=False)
    compiler.gate.release()
    served.observer.wait_for("compiled", 1)
    response = served.infer(1.0)
    assert response.status_code == 503
    assert error_of(response) == "model 'puppet' is compiling: 0 of 3 buckets are verified"
    assert int(response.headers["Retry-After"]) >= 1
    compiler.gate.release(2)
    served.until(lambda: served.services.engine.ready)
    assert served.infer(1.0).status_code == 200


def test_a_model_that_failed_is_503_for_good_with_the_reason(serve: Serve) -> None:
    compiler = PuppetCompiler()
    compiler.fail = RuntimeError("out of memory")
    response = serve(compiler=compiler).infer(1.0)
    assert response.status_code == 503
    assert error_of(response) == "model 'puppet' has failed: RuntimeError: out of memory"
    assert "Retry-After" not in response.headers


def test_a_full_queue_is_429_and_says_when_to_come_back(serve: Serve) -> None:
    served = serve(puppet_config(rows=(4,), in_flight=1, max_queue_rows=3))
    served.hold()
    first = served.infer_later(1.0)
    served.wait_on_device()
    waiting = [submit(served.engine, "puppet", rows(value)) for value in (2.0, 3.0, 4.0)]
    response = served.infer(4.0, 5.0)
    assert response.status_code == 429
    assert error_of(response) == "2 rows do not fit now: 3 wait already"
    assert int(response.headers["Retry-After"]) >= 1
    assert isinstance(served.observer.named("refused")[0][2], QueueFull)
    served.release()
    assert first.result(PATIENCE_S).status_code == 200
    for pending, value in zip(waiting, (2.0, 3.0, 4.0), strict=True):
        assert pending.result()["y"].ravel().tolist() == answer(value)


def test_a_request_of_more_rows_than_the_queue_is_answered(serve: Serve) -> None:
    served = serve(puppet_config(max_queue_rows=4))
    response = served.infer(*range(2048))
    assert response.status_code == 200
    assert response.get_json()["outputs"][0]["data"] == answer(*range(2048))


def test_more_rows_than_a_request_may_have_are_413_for_good(serve: Serve) -> None:
    response = serve(puppet_config(max_request_rows=4)).infer(*range(5))
    assert response.status_code == 413
    assert "Retry-After" not in response.headers
    assert error_of(response) == (
        "x: 5 rows in one request, expected 1 to 4 (max_request_rows); send several requests"
    )


def test_a_deadline_that_no_device_could_meet_is_422_for_good(
    serve: Serve, clock: FakeClock
) -> None:
    def slow(inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        clock.advance(2.0)
        return {"y": inputs["x"] * 2 + 1}

    served = serve(puppet_config(rows=(1,)), clock=clock, compiler=PuppetCompiler(slow))
    refused = served.infer(1.0, 2.0, headers={"X-Request-Timeout-Ms": "3000"})
    assert refused.status_code == 422
    assert "Retry-After" not in refused.headers
    assert error_of(refused) == (
        "an answer within 3 s is impossible: an idle device needs 4 s for 2 rows; "
        "send fewer rows in a request, or allow more time"
    )
    assert served.sample("brim_refused_total", model="puppet", error="DeadlineTooShort") == 1


def test_an_answer_that_comes_too_late_is_504(serve: Serve) -> None:
    # a shorter one could pass before the request is admitted, which is a refusal
    served = serve(puppet_config(rows=(4,), timeout_s=1.5))
    served.hold()
    later = served.infer_later(1.0)
    served.wait_on_device()
    response = later.result(PATIENCE_S)
    assert response.status_code == 504
    assert error_of(response) == "no answer within 1.5 s"


def test_a_device_that_fails_is_500_and_the_next_request_is_served(
    served: Served,
) -> None:
    served.device.fail_result = RuntimeError("ECC error")
    response = served.infer(1.0)
    assert response.status_code == 500
    assert error_of(response).startswith("a batch of model 'puppet' failed on the device (failure ")
    served.device.fail_result = None
    assert served.infer(1.0).status_code == 200


def test_a_client_that_hangs_up_is_499_and_its_rows_never_reach_the_device(serve: Serve) -> None:
    served = serve(puppet_config(rows=(4,), in_flight=1))
    served.hold()
    first = served.infer_later(1.0)
    served.wait_on_device()
    ours, theirs = socket.socketpair()
    with ours:
        leaver = served.infer_later(2.0, environ_overrides={"gunicorn.socket": ours})
        served.observer.wait_for("queued", 2)
        theirs.close()
        response = leaver.result(PATIENCE_S)
    assert response.status_code == 499
    served.release()
    assert first.result(PATIENCE_S).status_code == 200
    launched = served.observer.wait_for("batch_done")
    assert [report.rows for _, report in launched] == [1]
    errors = [report.error for _, report in served.observer.wait_for("request_done", 2)]
    assert sorted(map(type, errors), key=str) == [type(None), Cancelled]


def test_a_client_that_stays_is_answered_over_the_socket_that_is_watched(served: Served) -> None:
    served.hold()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        later = served.infer_later(1.0, environ_overrides={"gunicorn.socket": ours})
        served.wait_on_device()
        theirs.sendall(b"POST /v2")  # pipelined
        served.release()
        assert later.result(PATIENCE_S).status_code == 200


def test_when_all_places_are_taken_a_request_is_429_and_health_still_answers(serve: Serve) -> None:
    served = serve(worker="gthread", threads=2)
    served.hold()
    first = served.infer_later(1.0)
    served.wait_on_device()
    refused = served.infer(2.0)
    assert refused.status_code == 429
    assert error_of(refused) == "1 requests wait in this process already"
    assert refused.headers["Retry-After"] == "1"
    assert served.sample("brim_refused_total", model="puppet", error="TooManyWaiting") == 1
    for path in ("/healthz", "/readyz", "/metrics", "/v2/models/puppet"):
        assert served.client.get(path).status_code == 200
    served.release()
    assert first.result(PATIENCE_S).status_code == 200
    assert served.infer(2.0).status_code == 200


def test_while_the_server_drains_new_requests_are_503_and_the_old_are_answered(
    served: Served,
) -> None:
    served.hold()
    first = served.infer_later(1.0)
    served.wait_on_device()
    served.engine.drain()
    refused = served.infer(2.0)
    assert refused.status_code == 503
    assert error_of(refused) == "the server is shutting down"
    assert refused.headers["Retry-After"] == "1"
    served.release()
    assert first.result(PATIENCE_S).get_json()["outputs"][0]["data"] == answer(1.0)
