"""The inference routes: what a client is told, whether it goes well or not."""

from __future__ import annotations

import socket
import threading
from typing import Any

import numpy as np
import pytest

from app.services import VERSION
from engine.config import ModelConfig
from engine.errors import Cancelled, QueueFull
from engine.model import Model, Prepared
from engine.spec import LENGTH, Arrays, TensorSpec
from engine.testing import (
    PUPPET_SPEC_IN,
    PUPPET_SPEC_OUT,
    PuppetCompiler,
    puppet_config,
    puppet_model,
    rows,
)
from tests.app.conftest import PATIENCE_S, Serve, Served, answer, body, error_of

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


def test_a_bad_request_between_two_good_ones_fails_alone(serve: Serve) -> None:
    served = serve(puppet_config(rows=(4,), in_flight=1))
    served.hold()
    first = served.infer_later(1.0)
    served.wait_on_device()
    second = served.infer_later(2.0)
    bad = served.client.post(INFER, json=body(3.0) | {"inputs": [{"name": "x"}]})
    third = served.infer_later(4.0)
    served.observer.wait_for("queued", 3)
    served.release()
    assert bad.status_code == 400
    for later, value in ((first, 1.0), (second, 2.0), (third, 4.0)):
        response = later.result(PATIENCE_S)
        assert response.status_code == 200
        assert response.get_json()["outputs"][0]["data"] == answer(value)
    batches = served.observer.wait_for("batch_done", 2)
    assert [report.rows for _, report in batches] == [1, 2]


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
        pytest.param(b"", "body: not JSON", id="the codec refuses"),
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


def test_binary_tensors_are_refused_by_the_header_that_announces_them(served: Served) -> None:
    response = served.infer(1.0, headers={"Inference-Header-Content-Length": "90"})
    assert response.status_code == 400
    assert error_of(response) == (
        "Inference-Header-Content-Length: binary tensors are not served; send JSON"
    )


def test_while_a_model_compiles_it_is_503_and_says_when_to_come_back(serve: Serve) -> None:
    compiler = PuppetCompiler()
    compiler.gate = threading.Semaphore(0)
    served = serve(puppet_config(rows=(1, 2, 4)), compiler=compiler, wait=False)
    compiler.gate.release()
    served.observer.wait_for("compiled", 1)
    response = served.infer(1.0)
    assert response.status_code == 503
    assert error_of(response) == "model 'puppet' is compiling: 0 of 3 buckets are proven"
    assert int(response.headers["Retry-After"]) >= 1
    compiler.gate.release(2)
    assert served.engine.wait_settled(PATIENCE_S)
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
    waiting = served.engine.submit("puppet", rows(2.0, 3.0))
    response = served.infer(4.0, 5.0)
    assert response.status_code == 429
    assert error_of(response) == "2 rows do not fit: 2 wait already"
    assert int(response.headers["Retry-After"]) >= 1
    assert isinstance(served.observer.named("refused")[0][2], QueueFull)
    served.release()
    assert first.result(PATIENCE_S).status_code == 200
    assert waiting.result()["y"].tolist() == [[5.0, -3.0], [7.0, -5.0]]


def test_an_answer_that_comes_too_late_is_504(serve: Serve) -> None:
    served = serve(puppet_config(rows=(4,), timeout_s=0.01))
    served.hold()
    response = served.infer(1.0)
    assert response.status_code == 504
    assert error_of(response) == "no answer within 0.01 s"


def test_a_device_that_fails_is_500_with_its_words_and_the_next_request_is_served(
    served: Served,
) -> None:
    served.device.fail_result = RuntimeError("ECC error")
    response = served.infer(1.0)
    assert response.status_code == 500
    assert error_of(response) == "the device failed this batch: ECC error"
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
    errors = [report.error for _, report in served.observer.wait_for("ticket_done", 2)]
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
    served = serve(threads=2)
    served.hold()
    first = served.infer_later(1.0)
    served.wait_on_device()
    refused = served.infer(2.0)
    assert refused.status_code == 429
    assert error_of(refused) == "1 requests wait in this process already"
    assert refused.headers["Retry-After"] == "1"
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


# --- what there is --------------------------------------------------------------------------------


def test_the_server_says_who_it_is(served: Served) -> None:
    said = served.client.get("/v2").get_json()
    assert said == {"name": "brim", "version": VERSION, "extensions": []}


def test_the_models_are_listed_in_the_order_of_the_config(serve: Serve) -> None:
    served = serve(*(puppet_config(name=name, rows=(4,)) for name in ("b", "a")))
    assert served.client.get("/v2/models").get_json() == {"models": ["b", "a"]}


def test_a_model_says_what_its_tensors_are_called(served: Served) -> None:
    assert served.client.get("/v2/models/puppet").get_json() == {
        "name": "puppet",
        "versions": ["1"],
        "platform": "jax",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
    }


def test_stats_tell_the_costs_and_the_counts(serve: Serve) -> None:
    served = serve(puppet_config(rows=(1, 2)))
    assert served.infer(1.0).status_code == 200
    served.observer.wait_for("batch_done")
    said = served.client.get("/v2/models/puppet/stats").get_json()
    seconds = [line.pop("seconds") for line in said["cost_table"]]
    assert all(cost > 0 for cost in seconds)
    assert said["cost_table"] == [{"rows": 1, "length": None}, {"rows": 2, "length": None}]
    counts = said["counts"]
    assert (counts["accepted"], counts["succeeded"], counts["batches"]) == (1, 1, 1)
    assert counts["rows"] == 1
    assert (said["name"], said["version"], said["state"], said["reason"]) == (
        "puppet",
        "1",
        "ready",
        None,
    )
    assert (said["queue_depth"], said["queued_requests"], said["batches_in_flight"]) == (0, 0, 0)
    assert said["stalled_seconds"] == 0
    assert said["memory"] == {"weights_bytes": 0, "code_bytes": 0, "peak_batch_bytes": 0}


def test_stats_before_anything_is_known_are_empty_and_not_an_error(serve: Serve) -> None:
    compiler = PuppetCompiler()
    compiler.gate = threading.Semaphore(0)
    served = serve(compiler=compiler, wait=False)
    served.observer.wait_for("state_changed")
    said = served.client.get("/v2/models/puppet/stats").get_json()
    assert (said["state"], said["cost_table"], said["memory"]) == ("compiling", [], None)
