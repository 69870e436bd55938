"""Which requests may run on the thread that serves all others."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from app.http.dispatch.inline import LONGEST_BODY, InlinePolicy
from engine.models.model import Prepared
from engine.testing import PUPPET_SPEC_IN, PuppetCompiler, puppet_model
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
        pytest.param(environ("/v2/models/other/infer"), False, id="another model"),
        pytest.param(environ("/healthz"), True, id="liveness"),
        pytest.param(environ("/readyz"), True, id="readiness"),
        pytest.param(environ("/metrics"), False, id="metrics"),
        pytest.param(environ("/openapi.json"), False, id="the document"),
        pytest.param(environ("/own/route"), False, id="a route of the user's own"),
    ],
)
def test_requests_that_are_short_plain_and_without_a_models_code_run_inline(
    served: Served, request_: dict[str, str], inline: bool
) -> None:
    assert InlinePolicy(served.engine)(request_) is inline


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
    assert InlinePolicy(served.engine)(environ(INFER)) is not ready  # a refusal is inline


@pytest.mark.parametrize(("size", "inline"), [("100", True), ("150", True), ("151", False)])
def test_a_preprocess_that_is_quick_for_a_short_body_runs_inline(
    serve: Serve, size: str, inline: bool
) -> None:
    model = puppet_model(preprocess=tokenize, device_inputs=(PUPPET_SPEC_IN,))
    model.processor = replace(model.processor, quick_bytes=150)
    served = serve(PUPPET, model=lambda _config: model)
    assert InlinePolicy(served.engine)(environ(INFER, CONTENT_LENGTH=size)) is inline
