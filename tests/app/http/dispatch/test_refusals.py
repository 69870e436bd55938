"""The answers to what Flask never sees."""

from __future__ import annotations

import json
import re

import pytest

from app.http.factory import BrimApp
from tests.app.conftest import Served


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/v2/models/puppet/infer", 431, {"error": "too many headers"}),
        ("-", 400, {"error": "too many headers"}),
        (
            "/v1/embeddings",
            414,
            {
                "error": {
                    "message": "too many headers",
                    "type": "invalid_request_error",
                    "param": None,
                    "code": None,
                }
            },
        ),
        ("/", 500, {"error": "internal error; the log has request seven"}),
    ],
)
def test_a_refusal_is_in_the_form_of_its_route_with_an_id_and_counted(
    served: Served, path: str, status: int, said: object, caplog: pytest.LogCaptureFixture
) -> None:
    assert isinstance(served.app, BrimApp)
    environ = {"REQUEST_METHOD": "-", "PATH_INFO": path, "HTTP_X_REQUEST_ID": "seven"}
    answer = served.app.refuse(environ, status, "too many headers", ValueError("secret"))
    assert (answer.status_code, json.loads(answer.body)) == (status, said)
    assert ("X-Request-Id", "seven") in answer.headers
    assert ("secret" in caplog.text) is (status == 500)
    labels = {"method": "other", "status": str(status)}
    assert served.sample("flask_http_request_total", **labels) == 1


def test_a_refusal_without_an_id_gets_one(served: Served) -> None:
    assert isinstance(served.app, BrimApp)
    answer = served.app.refuse({"REQUEST_METHOD": "-", "PATH_INFO": "-"}, 400, "no", ValueError())
    assert re.fullmatch("[0-9a-f]{32}", dict(answer.headers)["X-Request-Id"])
