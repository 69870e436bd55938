"""Requests that waited in the process, before the app saw them, for too much of their time."""

from __future__ import annotations

import time

import pytest

from app.worker.suspension import EXCHANGE, Exchange
from tests.app.conftest import Serve, Served, body, error_of

INFER = "/v2/models/puppet/infer"
HOUR_S = 3600.0
WHOLE = {"wsgi.input_terminated": True}
"""As under Brim's worker, which reads the whole body before."""


@pytest.fixture(params=["direct", "through Flask"])
def each(serve: Serve, request: pytest.FixtureRequest) -> Served:
    """A server that answers without Flask, and one where a user's hook takes part."""
    served = serve()
    if request.param == "through Flask":
        served.app.before_request(lambda: None)
    served.infer(1.0)  # the route is remembered
    return served


@pytest.mark.parametrize(
    ("timeout_ms", "waited_s", "status"),
    [
        pytest.param(HOUR_S * 1000, 0.0, 200, id="read just now"),
        pytest.param(None, 14.0, 200, id="less than half of the model's 30 s"),
        pytest.param(None, 15.0, 503, id="half of them"),
        pytest.param(20_000.0, 9.0, 200, id="less than half of the header's 20 s"),
        pytest.param(20_000.0, 10.0, 503, id="half of these"),
        pytest.param(None, HOUR_S, 503, id="its time is long over"),
    ],
)
def test_a_request_that_has_waited_for_half_of_its_time_is_refused_before_it_is_decoded(
    each: Served, timeout_ms: float | None, waited_s: float, status: int
) -> None:
    exchange, overdue = Exchange(time.monotonic() - waited_s), []
    exchange.on_overdue = lambda: overdue.append(1)
    headers = {} if timeout_ms is None else {"X-Request-Timeout-Ms": f"{timeout_ms:g}"}
    sent = b"not JSON" if status == 503 else None
    said = each.client.post(
        INFER,
        json=None if sent else body(1.0),
        data=sent,
        headers=headers | {"X-Request-Id": "mine"},
        environ_overrides={EXCHANGE: exchange, **WHOLE},
    )
    assert said.status_code == status
    assert bool(overdue) is (status == 503)
    assert said.headers["X-Request-Id"] == "mine"
    if status == 503:
        allowed = 30 if timeout_ms is None else timeout_ms / 1000
        assert f"an answer within {allowed:g} s cannot be promised: it waited" in error_of(said)
        assert int(said.headers["Retry-After"]) >= waited_s
        assert each.sample("brim_refused_total", model="puppet", error="Shed") == 1
    counted = each.sample("flask_http_request_total", method="POST", status=str(status))
    assert counted == (2 if status == 200 else 1)


def test_a_header_that_is_no_number_is_refused_as_such_however_late(each: Served) -> None:
    exchange = Exchange(time.monotonic() - HOUR_S)
    headers = {"X-Request-Timeout-Ms": "soon"}
    overrides = {EXCHANGE: exchange, **WHOLE}
    said = each.client.post(INFER, json=body(1.0), headers=headers, environ_overrides=overrides)
    assert said.status_code == 400
