"""`/metrics` and the HTTP requests: what is counted, in which series, and a user's own metrics."""

from __future__ import annotations

import pytest
from flask import Blueprint, request
from prometheus_client.parser import text_string_to_metric_families

from app.telemetry.exporter import HttpExporter
from tests.app.conftest import PATIENCE_S, Serve, Served, body


@pytest.fixture
def user(serve: Serve) -> Served:
    """A server with a blueprint of a user, whose views have decorators of the library."""
    served = serve()
    metrics: HttpExporter = served.app.extensions["metrics"]
    blueprint = Blueprint("user", __name__)

    @blueprint.get("/lookup/<kind>")
    @metrics.counter("lookups", "Lookups", labels={"kind": lambda: request.view_args["kind"]})
    @metrics.histogram("lookup_seconds", "Lookups", labels={"status": lambda r: r.status_code})
    def lookup(kind: str) -> str:
        return kind

    @blueprint.get("/hidden")
    @metrics.do_not_track()
    @metrics.counter("hidden_calls", "Calls of a view that is not tracked")
    def hidden() -> str:
        return "hidden"

    @blueprint.get("/secret")
    @metrics.exclude_all_metrics()
    @metrics.counter("secret_calls", "Calls of a view without metrics")
    def secret() -> str:
        return "secret"

    served.app.register_blueprint(blueprint)
    return served


def scrape(served: Served, query: str = "") -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = served.client.get(f"/metrics{query}").text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_user_s_decorated_views_show_up_in_metrics(user: Served) -> None:
    for kind in ("a", "b", "a"):
        assert user.client.get(f"/lookup/{kind}").text == kind
    assert user.client.get("/hidden").text == "hidden"
    assert user.client.get("/secret").text == "secret"
    samples = scrape(user)
    assert samples["lookups_total", (("kind", "a"),)] == 2
    assert samples["lookups_total", (("kind", "b"),)] == 1
    assert samples["lookup_seconds_count", (("status", "200"),)] == 3
    assert samples["hidden_calls_total", ()] == 1
    assert samples["secret_calls_total", ()] == 0
    assert samples["flask_http_request_total", (("method", "GET"), ("status", "200"))] == 3


def test_views_that_are_not_tracked_have_no_duration(user: Served) -> None:
    for path in ("/hidden", "/secret", "/lookup/a"):
        user.client.get(path)
    assert rules(user) == {None, "/lookup/<kind>"}


def rules(served: Served) -> set[str | None]:
    return {
        sample.labels.get("url_rule")
        for family in served.registry.collect()
        if family.name.startswith("flask_http_request")
        for sample in family.samples
    }


def test_a_decorator_times_the_view_and_the_default_metrics_time_the_answer(serve: Serve) -> None:
    served = serve()
    metrics: HttpExporter = served.app.extensions["metrics"]
    infer = served.app.view_functions["inference.infer"]
    timed = metrics.histogram("view_seconds", "Views", labels={"status": lambda r: r.status_code})
    served.app.view_functions["inference.infer"] = timed(infer)
    served.device.fail_result = RuntimeError("the device is gone")
    served.hold()
    later = served.infer_later(1.0)
    served.wait_on_device()
    assert served.sample("view_seconds_count", status="200") == 1
    assert served.sample("flask_http_request_total", method="POST", status="500") == 0
    served.release()
    assert later.result(PATIENCE_S).status_code == 500
    assert served.sample("flask_http_request_total", method="POST", status="500") == 1


def test_names_restrict_what_is_written(served: Served) -> None:
    served.client.post("/v2/models/puppet/infer", json=body(1.0))
    names = {name for name, _ in scrape(served, "?name[]=brim_ready&name[]=brim_rows_total")}
    assert names == {"brim_ready", "brim_rows_total"}


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        pytest.param("", "text/plain; version=0.0.4; charset=utf-8", id="text"),
        pytest.param(
            "application/openmetrics-text;version=1.0.0",
            "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores",
            id="openmetrics",
        ),
    ],
)
def test_the_format_is_the_one_that_the_scraper_accepts(
    served: Served, accept: str, content_type: str
) -> None:
    response = served.client.get("/metrics", headers={"Accept": accept})
    assert response.content_type == content_type
    assert response.text.endswith("# EOF\n") is accept.startswith("application")


def test_multi_process_settings_of_the_library_drop_no_metrics(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "/nowhere")
    assert ("brim_ready", ()) in scrape(served)


def test_urls_that_do_not_exist_make_one_series_and_not_one_each(served: Served) -> None:
    for number in range(20):
        served.client.get(f"/nowhere/{number}")
        served.client.get(f"/v2/models/unknown-{number}")
    assert rules(served) == {None, "None", "/v2/models/<name>"}


def test_methods_that_clients_invent_are_one_series(served: Served) -> None:
    for method in ("BREW", "BREWA", "GET"):
        served.client.open("/healthz", method=method)
    methods = {
        sample.labels.get("method")
        for family in served.registry.collect()
        if family.name.startswith("flask_http_request")
        for sample in family.samples
    }
    assert methods - {None} == {"other", "GET", "POST"}


def test_a_scrape_is_not_counted_among_the_requests(served: Served) -> None:
    served.client.get("/metrics")
    assert "/metrics" not in {
        label
        for family in served.registry.collect()
        for sample in family.samples
        for label in sample.labels.values()
    }
