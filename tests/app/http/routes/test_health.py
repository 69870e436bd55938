"""Alive, ready, or why not: three states that are never mixed up."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from engine.models.config import ModelConfig
from engine.models.model import Model
from engine.serving.endpoint import STALL_S
from engine.testing import FakeClock, PuppetCompiler, puppet_config, puppet_model
from tests.app.conftest import PATIENCE_S, Serve, Served


def first_fails(config: ModelConfig) -> Model:
    if config.name == "bad":
        raise FileNotFoundError("weights are gone")
    return puppet_model()


@pytest.fixture
def starting(serve: Serve) -> Served:
    """Three buckets, of which the compiler gives out as many as the test allows."""
    compiler = PuppetCompiler()
    compiler.gate = threading.Semaphore(0)
    served = serve(puppet_config(rows=(1, 2, 4)), compiler=compiler, wait=False)
    served.observer.wait_for("state_changed")
    return served


def test_a_starting_server_is_alive_and_not_ready_and_says_how_far_it_is(starting: Served) -> None:
    assert starting.client.get("/healthz").status_code == 200
    response = starting.client.get("/readyz")
    assert response.status_code == 503
    said = response.get_json()
    elapsed = said["models"]["puppet"].pop("elapsed_seconds")
    assert elapsed >= 0
    assert said == {
        "ready": False,
        "models": {
            "puppet": {
                "state": "compiling",
                "required": True,
                "buckets_done": 0,
                "buckets_total": 3,
                "expected_seconds": None,
            }
        },
    }


def test_once_something_is_compiled_the_start_says_how_long_it_will_take(starting: Served) -> None:
    assert starting.compiler.gate is not None
    starting.compiler.gate.release()
    starting.until(
        lambda: starting.services.engine.status().models[0].progress.expected_s is not None
    )
    said = starting.client.get("/readyz").get_json()["models"]["puppet"]
    assert said["expected_seconds"] >= said["elapsed_seconds"]


def test_a_server_is_ready_when_its_start_is_over(starting: Served) -> None:
    assert starting.client.get("/v2/health/ready").status_code == 503
    starting.release()
    starting.until(lambda: starting.services.engine.ready)
    response = starting.client.get("/readyz")
    assert response.status_code == 200
    said = response.get_json()
    assert said["ready"] is True
    assert said["models"]["puppet"]["state"] == "ready"
    assert said["models"]["puppet"]["buckets_done"] == 3
    assert "reason" not in said["models"]["puppet"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/healthz", {"alive": True}),
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models/puppet/ready", {"name": "puppet", "ready": True}),
    ],
)
def test_a_healthy_server_says_so_on_every_route(
    served: Served, path: str, said: dict[str, object]
) -> None:
    response = served.client.get(path)
    assert (response.status_code, response.get_json()) == (200, said)


@pytest.mark.parametrize("path", ["/healthz", "/v2/health/live"])
def test_a_server_whose_models_have_all_failed_is_not_alive(serve: Serve, path: str) -> None:
    """It will never serve: a supervisor may act."""
    compiler = PuppetCompiler()
    compiler.fail = RuntimeError("no")
    response = serve(compiler=compiler).client.get(path)
    assert response.status_code == 503
    if path == "/healthz":
        reason = "model 'puppet': RuntimeError: no"
        assert response.get_json() == {"alive": False, "reason": reason}


@pytest.mark.parametrize("path", ["/healthz", "/v2/health/live"])
def test_a_server_that_serves_one_model_is_alive(serve: Serve, path: str) -> None:
    good = puppet_config(name="good", rows=(4,))
    served = serve(puppet_config(name="bad", rows=(4,)), good, model=first_fails)
    assert served.client.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/v2/health/live"])
def test_a_server_that_drains_is_alive(serve: Serve, path: str) -> None:
    served = serve()
    served.engine.drain()
    assert served.client.get(path).status_code == 200


def test_a_batch_that_hangs_ends_readiness_first_and_liveness_later(serve: Serve) -> None:
    clock = FakeClock()
    served = serve(clock=clock)
    served.hold()
    waiting = served.infer_later(1.0)
    served.wait_on_device()
    for seconds, ready, alive in ((STALL_S - 1, 200, 200), (2, 503, 200), (4 * STALL_S, 503, 503)):
        clock.advance(seconds)
        assert served.client.get("/readyz").status_code == ready
        assert served.client.get("/healthz").status_code == alive
    said = served.client.get("/healthz").get_json()
    assert said["reason"] == "model 'puppet': a batch has been on the device for 51 s"
    served.release()
    waiting.result(PATIENCE_S)


def test_a_required_model_that_failed_keeps_the_server_unready_and_says_why(serve: Serve) -> None:
    good = puppet_config(name="good", rows=(4,))
    served = serve(puppet_config(name="bad", rows=(4,)), good, model=first_fails)
    response = served.client.get("/readyz")
    assert response.status_code == 503
    models = response.get_json()["models"]
    assert models["bad"]["state"] == "failed"
    assert models["bad"]["reason"] == "FileNotFoundError: weights are gone"
    assert models["good"]["state"] == "ready"
    assert served.client.get("/v2/health/ready").get_json() == {"ready": False}
    assert served.client.get("/v2/models/good/ready").status_code == 200
    bad = served.client.get("/v2/models/bad/ready")
    assert bad.status_code == 503
    reason = "FileNotFoundError: weights are gone"
    assert bad.get_json() == {"ready": False, "name": "bad", "reason": reason}


def test_a_model_that_is_not_required_may_fail(serve: Serve) -> None:
    good = puppet_config(name="good", rows=(4,))
    bad = puppet_config(name="bad", rows=(4,), required=False)
    response = serve(bad, good, model=first_fails).client.get("/readyz")
    assert response.status_code == 200
    said = response.get_json()["models"]["bad"]
    assert (said["state"], said["required"]) == ("failed", False)
    assert said["reason"] == "FileNotFoundError: weights are gone"


def test_with_no_model_that_serves_a_server_is_not_ready(serve: Serve) -> None:
    bad = puppet_config(name="bad", rows=(4,), required=False)
    assert serve(bad, model=first_fails).client.get("/readyz").status_code == 503


@pytest.mark.parametrize("path", ["/readyz", "/v2/health/ready", "/v2/models/puppet/ready"])
def test_a_draining_server_is_not_ready(served: Served, path: str) -> None:
    client: Any = served.services.engine
    client.drain()
    response = served.client.get(path)
    assert response.status_code == 503
    assert response.get_json()["ready"] is False


def test_a_batch_that_never_comes_back_makes_the_server_unready_until_it_does(
    serve: Serve,
) -> None:
    clock = FakeClock()
    served = serve(clock=clock)
    served.hold()
    later = served.infer_later(1.0)
    served.wait_on_device()
    clock.advance(STALL_S)
    assert served.client.get("/readyz").status_code == 200
    clock.advance(5)
    response = served.client.get("/readyz")
    assert response.status_code == 503
    said = response.get_json()["models"]["puppet"]
    assert (said["state"], said["reason"]) == ("ready", "a batch has been on the device for 15 s")
    assert served.client.get("/healthz").status_code == 200
    served.release()
    assert later.result(PATIENCE_S).status_code == 200
    assert served.client.get("/readyz").status_code == 200
