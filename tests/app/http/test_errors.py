"""Every error has a status, and no response shows internals."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.http import errors as web
from engine import errors
from tests.app.conftest import Served, error_of

AT_START = {errors.ConfigError, errors.LoadError, errors.WarmupError}
"""Errors of the start-up, never of a request."""
NEVER_RAISED = {errors.BrimError, errors.Refused}
"""Base classes, never raised themselves."""


def whole_tree(root: type[errors.BrimError] = errors.BrimError) -> Iterator[type[errors.BrimError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ in (errors.__name__, web.__name__):
            yield from whole_tree(child)


def test_every_error_of_a_request_has_a_status() -> None:
    assert set(web.STATUS) == set(whole_tree()) - AT_START - NEVER_RAISED


@pytest.mark.parametrize("kind", web.STATUS, ids=lambda kind: kind.__name__)
def test_an_error_worth_a_retry_has_a_status_that_clients_retry(
    kind: type[errors.BrimError],
) -> None:
    # a failed model answers 503 too: another replica may be healthy
    again, never = {429, 500, 503, 504}, {400, 404, 411, 413, 415, 422, 499, 503}
    assert web.STATUS[kind] in (again if kind.retry else never)


@pytest.fixture
def client() -> FlaskClient:
    """An app with the error table and one route that raises the named error."""
    app = Flask("table")
    web.register(app)
    failures: dict[str, Exception] = {
        "bad": errors.InvalidRequest("x", "no"),
        "large": errors.RequestTooLarge("inputs", "no"),
        "short": errors.DeadlineTooShort("short"),
        "unknown": errors.UnknownModel("a", ("b", "c")),
        "nan": errors.NonFiniteOutput("nan"),
        "full": errors.QueueFull("full", 0.2),
        "many": errors.TooManyWaiting("many", 1.0),
        "left": errors.Cancelled("left"),
        "broken": errors.ExecutionFailed("broken"),
        "early": errors.NotReady("early", 7.01),
        "closing": errors.ShuttingDown("closing", 1.0),
        "failed": errors.ModelFailed("failed"),
        "late": errors.DeadlineExceeded("late"),
    }

    @app.get("/<name>")
    def fail(name: str) -> str:
        raise failures[name]

    return app.test_client()


@pytest.mark.parametrize(
    ("name", "status", "retry_after", "message"),
    [
        ("bad", 400, None, "x: no"),
        ("large", 413, None, "inputs: no"),
        ("short", 422, None, "short"),
        ("unknown", 404, None, "unknown model 'a'; this server has b, c"),
        ("nan", 422, None, "nan"),
        ("full", 429, "1", "full"),
        ("many", 429, "1", "many"),
        ("left", 499, None, "left"),
        ("broken", 500, None, "broken; the log has request None"),
        ("early", 503, "8", "early"),
        ("closing", 503, "1", "closing"),
        ("failed", 503, None, "failed"),
        ("late", 504, None, "late"),
    ],
)
def test_an_error_gets_status_header_and_message_of_the_table(
    client: FlaskClient, name: str, status: int, retry_after: str | None, message: str
) -> None:
    response = client.get(f"/{name}")
    assert (response.status_code, error_of(response)) == (status, message)
    # whole seconds, rounded up, never 0: an immediate retry is useless
    assert response.headers.get("Retry-After") == retry_after


@pytest.mark.parametrize(
    "name", ["surprise", "start-up"], ids=["any exception", "an error without a status"]
)
def test_an_unexpected_error_is_logged_in_full_and_answered_with_the_request_id_only(
    served: Served, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    failures = {"surprise": ZeroDivisionError("secret"), "start-up": errors.LoadError("secret")}

    @served.app.get("/boom")
    def boom() -> str:
        raise failures[name]

    response = served.client.get("/boom", headers={"X-Request-Id": "seven"})
    assert response.status_code == 500
    assert error_of(response) == "internal error; the log has request seven"
    (record,) = [r for r in caplog.records if r.name == "brim.app"]
    assert (record.levelno, record.message) == (
        logging.ERROR,
        "request seven failed unexpectedly",
    )
    assert record.exc_info is not None
    assert "secret" in caplog.text
    assert "in boom" in caplog.text


def test_an_unknown_route_is_404_in_json(served: Served) -> None:
    response = served.client.get("/nowhere")
    assert response.status_code == 404
    assert error_of(response).startswith("GET /nowhere does not exist; ")


def test_a_wrong_method_is_405_in_json_and_lists_the_allowed_ones(served: Served) -> None:
    response = served.client.get("/v2/models/puppet/infer")
    assert response.status_code == 405
    assert "has POST, and not GET" in error_of(response)
    assert set(response.headers["Allow"].split(", ")) == {"OPTIONS", "POST"}


LARGER = "the body is larger than limits.max_body_bytes, which is 1048576"


def test_a_too_large_content_length_is_413_in_json(served: Served) -> None:
    limit = served.app.config["MAX_CONTENT_LENGTH"]
    response = served.client.post("/v2/models/puppet/infer", data=b" " * (limit + 1))
    assert response.status_code == 413
    assert error_of(response) == LARGER
    assert served.sample("brim_http_limited_total", limit="max_body_bytes") == 1


def test_a_too_large_chunked_body_is_413_in_json(served: Served) -> None:
    limit = served.app.config["MAX_CONTENT_LENGTH"]
    response = served.client.post(
        "/v2/models/puppet/infer",
        input_stream=io.BytesIO(b" " * (limit + 1)),
        environ_overrides={"wsgi.input_terminated": True},  # as for a chunked body
    )
    assert response.status_code == 413
    assert error_of(response) == LARGER


def test_a_models_own_error_class_is_answered_as_its_base() -> None:
    class TooBlurred(errors.InvalidRequest):
        """What a user's preprocess may raise."""

    assert web.status_of(TooBlurred("image", "too blurred")) == 400


def test_a_long_message_is_truncated() -> None:
    long, short = (
        web.error_response(errors.InvalidRequest("x", "x" * size), "/v2", "id").get_json()["error"]
        for size in (10_000, 10)
    )
    assert len(long) == web.MAX_MESSAGE + 1
    assert short == str(errors.InvalidRequest("x", "x" * 10))
