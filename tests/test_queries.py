"""Every shipped query uses metrics, labels and values that a server has.

A metric that is renamed would leave an alert that never fires and a panel that stays empty. The
queries are taken apart here, with no Prometheus at hand; whatever is not understood is an error.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from app.http.factory import create_app
from app.http.services import DisconnectWatcher
from app.telemetry.exporter import HttpExporter
from app.worker.calls.lane import LaneLoad
from engine.errors import ShuttingDown
from engine.serving.client import InProcessClient
from engine.testing import PuppetCompiler, puppet_config, puppet_model, rows
from tests.app.conftest import settings_of

CONFIGS: Final = Path(__file__).parents[1] / "configs"
DASHBOARD: Final[dict[str, Any]] = json.loads((CONFIGS / "grafana" / "brim.json").read_text())
PANELS: Final = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[Any]:
    """Every query, named after its alert or panel."""
    for group in yaml.safe_load((CONFIGS / "prometheus" / "alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            yield pytest.param(rule["expr"], id=f"alert-{rule['alert']}")
    for panel in PANELS:
        for target in panel["targets"]:
            name = f"panel-{panel['title']}-{target['refId']}"
            yield pytest.param(target["expr"], id=name.replace(" ", "_"))


# --- the subset of PromQL in use ------------------------------------------------------------------

STRING: Final = r'"(?:[^"\\]|\\.)*"'
MATCHER: Final = re.compile(rf"\s*(\w+)\s*(=~|!~|!=|=)\s*({STRING})\s*(?:,|$)")
SELECTOR: Final = re.compile(
    rf"(?<![\w$.])([a-zA-Z_:][\w:]*)\s*(?:\{{((?:[^{{}}\"]|{STRING})*)\}})?"
)
GROUPING: Final = re.compile(
    r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(\s*([\w\s,]*)\)"
)
FUNCTION: Final = re.compile(r"\b[a-z_]+\s*(?=\()")
WINDOW: Final = re.compile(r"\[(?:\d+[smhd]|\$__rate_interval)\]")
OPERATOR: Final = re.compile(r"\b(?:and|or|unless|bool)\b")
NUMBER: Final = re.compile(r"\b\d+(?:\.\d+)?(?:e[-+]?\d+)?\b")
REST: Final = re.compile(r"[-+*/%^<>=!(),\s]*")


@dataclass(frozen=True)
class Query:
    """The (metric, {label: value}) of each selector, and the labels of its groupings.

    The values of a label are those of `=`, or the alternatives of `=~`; none for a variable.
    """

    selectors: list[tuple[str, dict[str, list[str]]]] = field(default_factory=list)
    grouping: set[str] = field(default_factory=set)


def parse(expression: str) -> Query:
    """Parse a query. Raises ValueError for unknown syntax."""
    query = Query()

    def group(found: re.Match[str]) -> str:
        query.grouping.update(found[1].replace(",", " ").split())
        return " "

    def select(found: re.Match[str]) -> str:
        inside, labels = found[2] or "", {}
        for label, _, value in MATCHER.findall(inside):
            labels[label] = [] if "$" in value else value.strip('"').split("|")
        if MATCHER.sub("", inside).strip():
            raise ValueError(f"not understood: {inside!r} in {expression!r}")
        query.selectors.append((found[1], labels))
        return " "

    rest = GROUPING.sub(group, expression)
    for known in (WINDOW, OPERATOR, FUNCTION):
        rest = known.sub(" ", rest)
    rest = NUMBER.sub(" ", SELECTOR.sub(select, rest))
    if not REST.fullmatch(rest):
        raise ValueError(f"not understood: {rest!r} in {expression!r}")
    return query


# --- the metrics of a server ----------------------------------------------------------------------

Series = Mapping[str, Mapping[str, set[str]]]
"""Metric -> label -> values."""


@pytest.fixture(scope="module")
def series() -> Series:
    """What /metrics shows after an answer and a refusal, as Prometheus stores it: with its own `up`
    and the labels of the target.
    """
    model = puppet_config()
    settings = settings_of(model)
    metrics = HttpExporter(CollectorRegistry())
    engine = InProcessClient(
        settings.models,
        load=lambda _config: puppet_model(),
        compiler=PuppetCompiler(),
        watch_compiles=lambda _alarm: lambda: None,
    )
    disconnects = DisconnectWatcher()
    client = create_app(settings, engine, metrics, disconnects).test_client()
    engine.start()
    try:
        assert engine.wait_startup_finished(30)
        assert client.get("/readyz").status_code == 200
        engine.infer(model.name, rows(1))
        metrics.note_lanes({model.name: LaneLoad(waiting=0, busy=1, stuck=1, blocked=False)})
        engine.drain()
        with pytest.raises(ShuttingDown):
            engine.infer(model.name, rows(1))
        text = client.get("/metrics").get_data(as_text=True)
    finally:
        engine.close()
        disconnects.close()
    (scrape,) = yaml.safe_load((CONFIGS / "prometheus" / "prometheus.yml").read_text())[
        "scrape_configs"
    ]
    target = {"job": scrape["job_name"], "instance": "127.0.0.1:8000"}
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    samples = [(s.name, s.labels) for f in text_string_to_metric_families(text) for s in f.samples]
    for name, labels in [("up", {}), *samples]:
        for label, value in (labels | target).items():
            found[name][label].add(value)
    return found


def problems(expression: str, series: Series) -> list[str]:
    """The metrics, labels and values of a query that do not exist."""
    query = parse(expression)
    found, known = [], set()
    for metric, labels in query.selectors:
        if metric not in series:
            found.append(f"no metric {metric}")
            continue
        known |= set(series[metric])
        for label, values in labels.items():
            if label not in series[metric]:
                found.append(f"{metric} has no label {label}")
                continue
            found += [
                f"{metric} has no {label}={value}"
                for value in values
                if value not in series[metric][label]
            ]
    found += [f"nothing here has a label {label}" for label in sorted(query.grouping - known)]
    return found


# --- the tests ------------------------------------------------------------------------------------


@pytest.mark.parametrize("expression", list(expressions()))
def test_a_query_uses_existing_metrics(expression: str, series: Series) -> None:
    assert parse(expression).selectors
    assert problems(expression, series) == []


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        pytest.param("brim_redy == 0", ["no metric brim_redy"], id="a-metric-misspelled"),
        pytest.param(
            "rate(brim_requests_bucket[5m])", ["no metric brim_requests_bucket"], id="no-histogram"
        ),
        pytest.param(
            'brim_ready{model="a"}', ["brim_ready has no label model"], id="an-unknown-label"
        ),
        pytest.param(
            'sum(rate(brim_requests_total{outcome=~"failed|expird"}[5m])) > 0.01',
            ["brim_requests_total has no outcome=expird"],
            id="a-value-misspelled",
        ),
        pytest.param('up{job="brimm"} == 0', ["up has no job=brimm"], id="another-job"),
        pytest.param(
            'sum by (modle) (queue_depth{model=~"$model"}) and on (job, instance) brim_ready',
            ["nothing here has a label modle"],
            id="a-grouping-misspelled",
        ),
        pytest.param(
            "histogram_quantile(0.99, sum by (le) (rate(brim_batch_rows_bucket[$__rate_interval])))"
            " > 1e-3 or queue_dept",
            ["no metric queue_dept"],
            id="the-last-selector",
        ),
    ],
)
def test_a_query_for_an_unknown_metric_is_detected(
    expression: str, expected: list[str], series: Series
) -> None:
    assert problems(expression, series) == expected


@pytest.mark.parametrize(
    "expression", ["up @ 3", "up{job=brim}", "up[5y]", "'up'", "sum(up) # all"]
)
def test_unknown_query_syntax_is_an_error(expression: str) -> None:
    with pytest.raises(ValueError, match="not understood"):
        parse(expression)


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"].replace(" ", "_"))
def test_a_panel_has_a_description_and_the_selected_data_source(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert len(panel["description"]) > 40
    assert panel["fieldConfig"]["defaults"]["unit"]
    for part in (panel, *panel["targets"]):
        assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_the_dashboard_defines_every_variable_it_uses(series: Series) -> None:
    defined = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD["panels"]))
    assert set(used) - {"__rate_interval"} == defined == {"datasource", "model"}
    (query,) = [v["definition"] for v in DASHBOARD["templating"]["list"] if v["name"] == "model"]
    found = re.fullmatch(r"label_values\((\w+), (\w+)\)", query)
    assert found is not None
    assert found[2] in series[found[1]]


def test_the_panels_do_not_overlap() -> None:
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    identifiers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(identifiers) == len(set(identifiers))
