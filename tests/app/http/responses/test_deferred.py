"""A response with a pending result, under servers that wait and under one that resumes it."""

from __future__ import annotations

import gc
import time
import weakref
from typing import Any

import pytest
from flask import Response
from werkzeug.test import EnvironBuilder

from app.http.hooks import this_request
from app.http.responses.deferred import PendingAnswer
from app.http.responses.prepared import PreparedResponse
from app.worker.suspension import EXCHANGE, Exchange
from engine.testing import puppet_config
from tests.app.conftest import PUPPET, Serve, Served, answer, body


def ask(served: Served, **headers: str) -> tuple[PendingAnswer, list[tuple[str, Any]]]:
    """Call the app as a WSGI server does, and keep what it starts to answer."""
    said: list[tuple[str, Any]] = []
    builder = EnvironBuilder(
        "/v2/models/puppet/infer", method="POST", json=body(1.0), headers=headers
    )
    environ = builder.get_environ()
    exchange = environ[EXCHANGE] = Exchange(time.monotonic())
    parts = served.app(environ, lambda *start: said.append(start))
    assert isinstance(parts, PendingAnswer)
    assert exchange.answers == [parts]
    return parts, said


def test_nothing_is_sent_before_the_first_part_is_read(served: Served) -> None:
    served.hold()
    parts, said = ask(served, **{"X-Request-Id": "mine"})
    assert not parts.pending.ready
    served.release()
    (content,) = parts
    ((status, headers),) = said
    assert status == "200 OK"
    assert str(answer(1.0)[0]).encode() in content
    assert ("X-Request-Id", "mine") in headers
    assert ("Content-Type", "application/json") in headers
    parts.close()


def test_headers_that_hooks_put_on_the_response_are_on_the_answer(served: Served) -> None:
    @served.app.after_request
    def allow(response: Response) -> Response:
        response.headers["Access-Control-Allow-Origin"] = "*"
        response.headers.add("X-Twice", "1")
        response.headers.add("X-Twice", "2")
        response.vary.add("Origin")
        return response

    said = served.infer(1.0)
    assert said.headers["Access-Control-Allow-Origin"] == "*"
    assert said.headers.getlist("X-Twice") == ["1", "2"]
    assert said.headers["Vary"] == "Origin"
    assert said.headers["Content-Type"] == "application/json"
    assert len(said.headers.getlist("Content-Length")) == 1


def test_a_hook_that_looks_for_json_finds_none_before_there_is_an_answer(served: Served) -> None:
    @served.app.after_request
    def look(response: Response) -> Response:
        assert not response.is_json
        return response

    assert served.infer(1.0).is_json


def test_a_header_of_the_answer_itself_is_not_sent_twice(serve: Serve) -> None:
    served = serve(PUPPET)

    @served.app.after_request
    def insist(response: Response) -> Response:
        response.headers["content-type"] = "text/html"
        response.headers["CONTENT-LENGTH"] = "7"
        return response

    said = served.infer(1.0)
    assert said.headers.getlist("Content-Type") == ["application/json"]
    assert said.headers.getlist("Content-Length") == [str(len(said.data))]


def test_vary_of_the_answer_and_of_a_hook_is_combined(serve: Serve) -> None:
    served = serve(puppet_config(rows=(4096,), max_request_rows=4096))
    served.app.after_request(lambda response: response.vary.add("Origin") or response)
    said = served.infer(*range(4096), headers={"Accept-Encoding": "gzip"})
    assert said.headers.getlist("Vary") == ["Accept-Encoding, Origin"]


def test_an_answer_is_closed_when_it_is_sent(served: Served) -> None:
    closed: list[str] = []

    @served.app.after_request
    def watch(response: Response) -> Response:
        response.call_on_close(lambda: closed.append("answer"))
        return response

    parts, _ = ask(served)
    (_content,) = parts
    assert closed == []
    parts.close()
    assert closed == ["answer"]


def test_the_metrics_are_those_of_the_answer(served: Served) -> None:
    def count(status: int) -> float | None:
        return served.sample("flask_http_request_total", method="POST", status=str(status))

    served.hold()
    parts, _ = ask(served)
    assert count(200) is None
    served.device.fail_result = RuntimeError("gone")
    served.release()
    list(parts)
    parts.close()
    assert (count(200), count(500)) == (None, 1)
    labels = {"method": "POST", "status": "500", "url_rule": "/v2/models/<name>/infer"}
    assert served.sample("flask_http_request_duration_seconds_count", **labels) == 1


def test_a_server_that_never_iterates_frees_the_permit_and_the_queue(serve: Serve) -> None:
    served = serve(PUPPET, worker="gthread", threads=2)
    served.hold()
    parts, said = ask(served)
    assert served.infer(2.0).status_code == 429
    parts.close()
    parts.close()
    assert parts.pending.ready
    assert said == []
    served.release()
    assert served.infer(2.0).status_code == 200


def test_a_hook_that_fails_after_the_view_releases_the_permit(serve: Serve) -> None:
    served = serve(PUPPET, worker="gthread", threads=2)

    @served.app.after_request
    def fail(response: Response) -> Response:
        if this_request().request_id == "bad":
            this_request().request_id = "said"
            raise ZeroDivisionError
        return response

    assert served.infer(1.0, headers={"X-Request-Id": "bad"}).status_code == 500
    assert served.infer(1.0).status_code == 200


def test_a_hook_that_answers_instead_releases_the_permit(serve: Serve) -> None:
    served = serve(PUPPET, worker="gthread", threads=2)

    @served.app.after_request
    def replace(response: Response) -> Response:
        mine = Response('{"error": "mine"}', 503, content_type="application/json")
        return mine if this_request().request_id == "replaced" else response

    assert served.infer(1.0, headers={"X-Request-Id": "replaced"}).status_code == 503
    assert served.infer(1.0).status_code == 200


def test_a_bug_in_the_making_of_an_answer_is_a_500_that_names_the_request(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("app.http.codecs.oip.encode", lambda *_args: 1 // 0)
    said = served.infer(1.0, headers={"X-Request-Id": "r-7"})
    assert said.status_code == 500
    assert said.get_json() == {"error": "internal error; the log has request r-7"}
    assert "ZeroDivisionError" in caplog.text


def test_a_request_that_was_answered_leaves_nothing_for_the_garbage_collector(
    served: Served,
) -> None:
    gc.collect()
    gc.disable()
    try:
        parts, _ = ask(served)
        called: list[int] = []

        def mark(answer: PreparedResponse) -> None:
            called.append(answer.status_code)

        held = weakref.ref(mark)
        parts.then(mark)
        list(parts)
        parts.close()
        del parts, mark
        assert called == [200]
        assert held() is None
    finally:
        gc.enable()
