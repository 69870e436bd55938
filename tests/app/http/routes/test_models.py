"""What a client may ask about the server and its models."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from app.http.services import VERSION
from engine.models.config import ModelConfig
from engine.models.model import Model, Prepared
from engine.models.tensors import LENGTH, Array, Arrays, TensorSpec
from engine.testing import (
    PUPPET_SPEC_IN,
    PUPPET_SPEC_OUT,
    FakeClock,
    PuppetCompiler,
    double_plus_one,
    puppet_config,
    puppet_model,
)
from tests.app.conftest import PATIENCE_S, Serve, Served, error_of

INDEX = "/v2/repository/index"


def counter() -> PuppetCompiler:
    """A device that gives the number of each row beside what it makes of it."""

    def run(inputs: Arrays) -> dict[str, Array]:
        return double_plus_one(inputs) | {"count": np.zeros(len(inputs["x"]), np.int32)}

    return PuppetCompiler(run)


PHASES = ("queue", "compute_input", "compute_infer", "compute_output")


def test_the_server_says_who_it_is(served: Served) -> None:
    said = served.client.get("/v2").get_json()
    assert said == {
        "name": "brim",
        "version": VERSION,
        "extensions": [
            "binary_tensor_data",
            "model_configuration",
            "schedule_policy",
            "statistics",
        ],
    }


def test_the_models_are_listed_in_the_order_of_the_config(serve: Serve) -> None:
    served = serve(*(puppet_config(name=name, rows=(4,)) for name in ("b", "a")))
    assert served.client.get("/v2/models").get_json() == {"models": ["b", "a"]}


@pytest.mark.parametrize("version", ["", "/versions/1"])
def test_a_model_says_what_its_tensors_are_called(served: Served, version: str) -> None:
    assert served.client.get(f"/v2/models/puppet{version}").get_json() == {
        "name": "puppet",
        "versions": ["1"],
        "platform": "jax",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
    }


def test_what_a_model_says_of_itself_is_in_its_metadata(serve: Serve) -> None:
    said = {"description": "mean pooling is a guess"}
    served = serve(model=lambda _config: puppet_model(properties=said), compiler=counter())
    assert served.client.get("/v2/models/puppet").get_json()["properties"] == said


def reader(_config: ModelConfig) -> Model:
    return puppet_model(
        inputs=(TensorSpec("text", "BYTES"), TensorSpec("ids", "INT64", (LENGTH,))),
        preprocess=lambda _inputs: Prepared({}),
        device_inputs=(PUPPET_SPEC_IN,),
        outputs=(PUPPET_SPEC_OUT, TensorSpec("count", "INT32")),
    )


def test_what_goes_in_as_one_value_a_row_has_an_axis_for_tritons_tools(serve: Serve) -> None:
    said = serve(model=reader, compiler=counter()).client.get("/v2/models/puppet").get_json()
    assert [tensor["shape"] for tensor in said["inputs"]] == [[-1, 1], [-1, -1]]
    # what comes out is described as it comes out
    assert [tensor["shape"] for tensor in said["outputs"]] == [[-1, 2], [-1]]


# --- the configuration ----------------------------------------------------------------------------


def test_a_configuration_is_as_tritons_clients_read_it(serve: Serve) -> None:
    served = serve(
        puppet_config(rows=(1, 4, 8), max_wait_s=0.0025), model=reader, compiler=counter()
    )
    assert served.client.get("/v2/models/puppet/config").get_json() == {
        "name": "puppet",
        "platform": "jax",
        "backend": "jax",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": 8,
        "input": [
            {"name": "text", "data_type": "TYPE_STRING", "dims": [1]},
            {"name": "ids", "data_type": "TYPE_INT64", "dims": [-1]},
        ],
        "output": [
            {"name": "y", "data_type": "TYPE_FP32", "dims": [2]},
            {"name": "count", "data_type": "TYPE_INT32", "dims": [1]},
        ],
        "instance_group": [{"name": "puppet", "count": 1, "kind": "KIND_AUTO"}],
        "dynamic_batching": {
            "preferred_batch_size": [1, 4, 8],
            "max_queue_delay_microseconds": 2500,
            "priority_levels": 9,
            "default_priority_level": 5,
            "default_queue_policy": {
                "timeout_action": "REJECT",
                "default_timeout_microseconds": 30_000_000,
                "allow_timeout_override": True,
                "max_queue_size": 1024,
            },
        },
        "model_transaction_policy": {"decoupled": False},
    }


# --- the statistics -------------------------------------------------------------------------------


def triton_stats(served: Served, path: str = "/v2/models/puppet/stats") -> dict[str, Any]:
    (said,) = served.client.get(path).get_json()["model_stats"]
    return dict(said)


def test_the_statistics_are_tritons_and_add_up(serve: Serve) -> None:
    served = serve(puppet_config(rows=(4,)))
    for count, values in enumerate(([1.0], [1.0, 2.0], [3.0, 4.0]), 1):
        assert served.infer(*values).status_code == 200
        served.observer.wait_for("batch_done", count)
    served.device.fail_result = RuntimeError("gone")
    assert served.infer(1.0).status_code == 500
    served.observer.wait_for("batch_done", 4)
    said = triton_stats(served)
    assert (said["name"], said["version"]) == ("puppet", "1")
    assert (said["inference_count"], said["execution_count"]) == (5, 3)
    assert said["last_inference"] > 1_600_000_000_000
    spent = said["inference_stats"]
    assert {name: spent[name]["count"] for name in ("success", "fail", *PHASES)} == {
        "success": 3,
        "fail": 1,
        **dict.fromkeys(PHASES, 3),
    }
    assert spent["success"]["ns"] > 0
    assert spent["fail"]["ns"] > 0
    # each of the five is rounded by itself
    assert abs(sum(spent[name]["ns"] for name in PHASES) - spent["success"]["ns"]) <= 3
    assert spent["cache_hit"] == spent["cache_miss"] == {"count": 0, "ns": 0}
    batches = {batch.pop("batch_size"): batch for batch in said["batch_stats"]}
    assert {
        rows: {part["count"] for part in batch.values()} for rows, batch in batches.items()
    } == {
        1: {1},
        2: {2},
    }
    assert all(set(batch) == set(PHASES[1:]) for batch in batches.values())


def test_the_time_on_the_device_is_inference_and_the_time_before_it_is_queue(
    serve: Serve, clock: FakeClock
) -> None:
    served = serve(puppet_config(rows=(4,), in_flight=1), clock=clock)
    served.hold()
    first = served.infer_later(1.0)
    served.wait_on_device()
    second = served.infer_later(2.0)
    served.observer.wait_for("queued", 2)
    clock.advance(4.0)
    served.release()
    assert {later.result(PATIENCE_S).status_code for later in (first, second)} == {200}
    served.observer.wait_for("request_done", 2)
    spent = triton_stats(served)["inference_stats"]
    assert spent["queue"] == {"count": 2, "ns": 4_000_000_000}
    assert spent["compute_infer"] == {"count": 2, "ns": 4_000_000_000}
    assert spent["success"] == {"count": 2, "ns": 8_000_000_000}
    assert spent["compute_input"]["ns"] == spent["compute_output"]["ns"] == 0


def test_statistics_of_all_models_at_once(serve: Serve) -> None:
    served = serve(*(puppet_config(name=name, rows=(4,)) for name in ("b", "a")))
    said = served.client.get("/v2/models/stats").get_json()
    assert list(said) == ["model_stats"]
    assert [model["name"] for model in said["model_stats"]] == ["b", "a"]
    one = triton_stats(served, "/v2/models/a/versions/1/stats")
    assert one == said["model_stats"][1]


def test_at_first_every_statistic_is_zero(served: Served) -> None:
    said = triton_stats(served)
    assert (said["inference_count"], said["execution_count"], said["last_inference"]) == (0, 0, 0)
    assert said["batch_stats"] == []
    assert all(part == {"count": 0, "ns": 0} for part in said["inference_stats"].values())


def test_stats_tell_the_costs_and_the_counts_too(serve: Serve) -> None:
    served = serve(puppet_config(rows=(1, 2)))
    assert served.infer(1.0).status_code == 200
    served.observer.wait_for("batch_done")
    said = served.client.get("/v2/models/puppet/stats").get_json()
    for key in ("seconds", "measured_s"):
        assert all(line.pop(key) > 0 for line in said["cost_table"])
    assert {type(line.pop("dominated")) for line in said["cost_table"]} == {bool}
    assert said["cost_table"] == [{"rows": 1, "length": None}, {"rows": 2, "length": None}]
    counts = said["counts"]
    assert (counts["accepted"], counts["succeeded"], counts["batches"]) == (1, 1, 1)
    assert (counts["rows"], counts["rows_answered"]) == (1, 1)
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


# --- the repository -------------------------------------------------------------------------------


@pytest.fixture
def half(serve: Serve) -> Served:
    """Two models, of which one has failed."""

    def load(config: ModelConfig) -> Model:
        if config.name == "broken":
            raise RuntimeError("no weights")
        return puppet_model()

    return serve(*(puppet_config(name=name, rows=(4,)) for name in ("good", "broken")), model=load)


GOOD = {"name": "good", "version": "1", "state": "READY", "reason": ""}
BROKEN = {
    "name": "broken",
    "version": "1",
    "state": "UNAVAILABLE",
    "reason": "RuntimeError: no weights",
}


@pytest.mark.parametrize(
    ("sent", "listed"),
    [
        pytest.param(None, [GOOD, BROKEN], id="no body"),
        pytest.param(b"{}", [GOOD, BROKEN], id="no wish"),
        pytest.param(b'{"ready": false}', [GOOD, BROKEN], id="ready or not"),
        pytest.param(b'{"ready": true}', [GOOD], id="only those that serve"),
    ],
)
def test_the_index_says_how_every_model_stands(
    half: Served, sent: bytes | None, listed: list[dict[str, str]]
) -> None:
    response = half.client.post(INDEX, data=sent)
    assert response.status_code == 200
    assert response.get_json() == listed


def test_the_index_of_a_server_that_starts_says_where_it_is(serve: Serve) -> None:
    compiler = PuppetCompiler()
    compiler.gate = threading.Semaphore(0)
    served = serve(compiler=compiler, wait=False)
    served.observer.wait_for("state_changed")
    (said,) = served.client.post(INDEX).get_json()
    assert (said["state"], said["reason"]) == ("UNAVAILABLE", "compiling")


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"nonsense", "body: not JSON: "),
        (b'{"ready": "yes"}', "ready: Expected `bool | null`, got `str`"),
        (b"[]", "body: Expected `object`, got `array`"),
    ],
)
def test_an_index_request_that_makes_no_sense_is_400(
    served: Served, sent: bytes, message: str
) -> None:
    response = served.client.post(INDEX, data=sent)
    assert response.status_code == 400
    assert error_of(response).startswith(message)
