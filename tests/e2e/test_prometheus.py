"""A real Prometheus scrapes a real Brim, with the shipped configuration and rules."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import requests
import yaml

from tests.e2e.server import Server

pytestmark = pytest.mark.e2e

CONFIGS: Final = Path(__file__).parents[2] / "configs"
SHIPPED: Final = CONFIGS / "prometheus"
DASHBOARD: Final[dict[str, Any]] = json.loads((CONFIGS / "grafana" / "brim.json").read_text())

EMPTY: Final = {"Refused by error": "nothing is refused here"}
"""Panels without data, and why."""

Ask = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def prometheus(
    tool: Callable[[str], Path],
    start: Callable[..., Server],
    digits_server: Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Server:
    """Prometheus with the shipped configuration, except the port and a shorter interval."""
    program = tool("prometheus")
    config = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())
    config["global"] |= {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(SHIPPED / file) for file in config["rule_files"]]
    (scrape,) = config["scrape_configs"]
    scrape["scrape_timeout"] = "1s"
    scrape["static_configs"][0]["targets"] = [digits_server.url.removeprefix("http://")]
    folder = tmp_path_factory.mktemp("prometheus")
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    server = start(
        file,
        str(program),
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        "--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    )
    server.until(lambda: requests.get(f"{server.url}/-/ready", timeout=10).ok, "readiness")
    return server


@pytest.fixture(scope="module")
def ask(prometheus: Server) -> Ask:
    """Evaluate an expression now."""

    def ask(expression: str) -> list[dict[str, Any]]:
        query = {"query": expression}
        response = requests.get(f"{prometheus.url}/api/v1/query", params=query, timeout=10)
        assert response.ok, response.text
        found: list[dict[str, Any]] = response.json()["data"]["result"]
        return found

    return ask


@pytest.fixture(scope="module")
def one_digit(digits_server: Server) -> Callable[[], None]:
    """Send one request and check its answer."""

    def send() -> None:
        image = {"name": "image", "datatype": "FP32", "shape": [1, 8, 8], "data": [16] * 64}
        assert digits_server.infer("digits", **image).ok

    return send


@pytest.fixture(scope="module")
def seen(ask: Ask, prometheus: Server, one_digit: Callable[[], None]) -> Ask:
    """Evaluate an expression until it has data, while requests arrive."""

    def seen(expression: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []

        def look() -> bool:
            one_digit()
            found[:] = [one for one in ask(expression) if one["value"][1] != "NaN"]
            return bool(found)

        prometheus.until(look, expression)
        return found

    return seen


def test_prometheus_scrapes_brim_and_its_model(seen: Ask) -> None:
    assert seen('up{job="brim"} == 1')
    assert seen("brim_ready == 1")
    (ready,) = seen("brim_model_ready == 1")
    assert ready["metric"]["model"] == "digits"
    (slo,) = seen("brim_slo_seconds")
    assert float(slo["value"][1]) == 0.5


def test_every_answered_request_is_counted(seen: Ask, one_digit: Callable[[], None]) -> None:
    counter = 'brim_requests_total{model="digits",outcome="succeeded"}'
    (before,) = seen(counter)
    count = float(before["value"][1])
    for _ in range(5):
        one_digit()
    (after,) = seen(f"{counter} >= {count + 5}")
    assert after["metric"]["job"] == "brim"


def test_the_rules_evaluate_without_an_error(prometheus: Server) -> None:
    def rules() -> list[dict[str, Any]]:
        said = requests.get(f"{prometheus.url}/api/v1/rules", timeout=10).json()
        return [rule for group in said["data"]["groups"] for rule in group["rules"]]

    def evaluated() -> bool:
        found = rules()
        return bool(found) and all(rule["health"] != "unknown" for rule in found)

    prometheus.until(evaluated, "a first evaluation of every rule")
    shipped = yaml.safe_load((SHIPPED / "alerts.yml").read_text())["groups"]
    assert {rule["name"]: rule["health"] for rule in rules()} == {
        rule["alert"]: "ok" for group in shipped for rule in group["rules"]
    }
    assert [rule["name"] for rule in rules() if rule["state"] == "firing"] == []


def panels() -> Iterator[Any]:
    """Every query of the dashboard."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            name = f"{panel['title']}-{target['refId']}".replace(" ", "_")
            yield pytest.param(panel["title"], target, id=name)


@pytest.mark.parametrize(("title", "target"), list(panels()))
def test_a_panel_has_data(title: str, target: dict[str, Any], ask: Ask, seen: Ask) -> None:
    expression = target["expr"].replace("$__rate_interval", "15s").replace("$model", ".*")
    found = ask(expression) if title in EMPTY else seen(expression)
    wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
    assert all(wanted <= set(one["metric"]) for one in found)
