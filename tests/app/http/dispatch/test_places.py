"""Which requests may run on the thread that serves all others."""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from typing import Any

import pytest

from app.http.dispatch.places import (
    EMBEDDINGS,
    INLINE_PROBE,
    LONGEST_BODY,
    OWN_LANE,
    USERS,
    Places,
)
from app.worker.suspension import Place
from engine.models.model import Prepared
from engine.testing import PUPPET_SPEC_IN, PuppetCompiler, puppet_config, puppet_model
from tests.app.conftest import PUPPET, Serve, Served

INFER = "/v2/models/puppet/infer"


def environ(path: str, **more: str) -> dict[str, str]:
    return {"PATH_INFO": path, "CONTENT_LENGTH": "100", **more}


@pytest.mark.parametrize(
    ("request_", "inline"),
    [
        pytest.param(environ(INFER), True, id="arrays for a model without hooks"),
        pytest.param(environ("/v2/models/puppet/versions/1/infer"), True, id="with its version"),
        pytest.param(environ(INFER, CONTENT_LENGTH=str(LONGEST_BODY)), True, id="a long body"),
        pytest.param(environ(INFER, CONTENT_LENGTH=str(LONGEST_BODY + 1)), False, id="too long"),
        pytest.param(environ(INFER, CONTENT_LENGTH="9" * 5000), False, id="no length at all"),
        pytest.param({"PATH_INFO": INFER}, False, id="chunked"),
        pytest.param(environ(INFER, HTTP_CONTENT_ENCODING="gzip"), False, id="compressed"),
    ],
)
def test_inference_that_is_short_plain_and_without_a_models_code_runs_inline(
    served: Served, request_: dict[str, str], inline: bool
) -> None:
    timeout_s = math.inf if inline else PUPPET.timeout_s
    assert Places(served.engine)(request_) == Place("puppet", inline, timeout_s)


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/healthz", INLINE_PROBE),
        ("/readyz", INLINE_PROBE),
        ("/v2/health/ready", INLINE_PROBE),
        ("/v2/models/puppet/ready", INLINE_PROBE),
        ("/v2/models/puppet/versions/1/ready", INLINE_PROBE),
        ("/metrics", OWN_LANE),
        ("/openapi.json", OWN_LANE),
        ("/docs", OWN_LANE),
        ("/docs/assets/swagger-ui.css", OWN_LANE),
        ("/v2/models/puppet/stats", OWN_LANE),
        ("/v2/models/other/infer", OWN_LANE),
        ("/v1/models/puppet", OWN_LANE),
        ("/own/route", USERS),
    ],
)
def test_no_route_of_brims_own_runs_where_code_of_models_and_users_does(
    served: Served, path: str, place: Place
) -> None:
    assert Places(served.engine)(environ(path)) == place


@pytest.mark.parametrize(
    ("path", "header", "timeout_s"),
    [
        pytest.param(INFER, None, 30.0, id="the model's"),
        pytest.param(INFER, "1500", 1.5, id="the header's"),
        pytest.param(INFER, "90000", 30.0, id="a header cannot lengthen it"),
        pytest.param(INFER, "soon", 30.0, id="the view refuses this header"),
        pytest.param(EMBEDDINGS, None, 60.0, id="the longest of all models"),
        pytest.param(EMBEDDINGS, "1500", 1.5, id="the header's, for any model"),
    ],
)
def test_a_request_in_a_lane_has_the_timeout_that_is_known_before_its_body_is_read(
    serve: Serve, path: str, header: str | None, timeout_s: float
) -> None:
    served = serve(PUPPET, puppet_config(name="patient", timeout_s=60.0))
    more = {} if header is None else {"HTTP_X_REQUEST_TIMEOUT_MS": header}
    place = Places(served.engine)(environ(path, CONTENT_LENGTH="", **more))
    assert place.timeout_s == timeout_s
    assert not place.inline


def tokenize(inputs: Any) -> Prepared:
    return Prepared(inputs)


@pytest.mark.parametrize("ready", [True, False])
def test_a_model_with_a_preprocess_is_not_inline_once_it_can_run(serve: Serve, ready: bool) -> None:
    puppets = PuppetCompiler()
    if not ready:
        puppets.gate = threading.Semaphore(0)
    served = serve(
        PUPPET,
        model=lambda _config: puppet_model(preprocess=tokenize, device_inputs=(PUPPET_SPEC_IN,)),
        compiler=puppets,
        wait=ready,
    )
    assert Places(served.engine)(environ(INFER)).inline is not ready  # a refusal is inline


@pytest.mark.parametrize(("size", "inline"), [("100", True), ("150", True), ("151", False)])
def test_a_preprocess_that_is_quick_for_a_short_body_runs_inline(
    serve: Serve, size: str, inline: bool
) -> None:
    model = puppet_model(preprocess=tokenize, device_inputs=(PUPPET_SPEC_IN,))
    model.processor = replace(model.processor, quick_bytes=150)
    served = serve(PUPPET, model=lambda _config: model)
    assert Places(served.engine)(environ(INFER, CONTENT_LENGTH=size)).inline is inline
