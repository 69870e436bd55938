"""Hooks that hang: each request is answered at its deadline, and nothing else waits for them.

Nothing here measures time. The gate that the hooks wait for stays shut until everything that is
expected meanwhile has come: without that, the test would wait for ever.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.e2e.server import Server

pytestmark = pytest.mark.e2e

HERE = Path(__file__).parent
OWN_ROUTES = (
    "/healthz",
    "/v2/health/ready",
    "/metrics",
    "/docs",
    "/openapi.json",
    "/v2/models/hangs/stats",
    "/v2/models/hangs/config",
    "/v1/models/hangs",
)
THREADS = 2


class Hanging:
    """A server with a model that hangs and one that does not."""

    def __init__(self, directory: Path, start: Any, *, beside_the_engine: bool) -> None:
        self.gate = directory / "gate"
        for name in ("hanging_model.py", "hanging_host.py"):
            (directory / name).symlink_to(HERE / name)
        (directory / "open").touch()
        config = directory / "hanging.toml"
        config.write_text(
            "[server]\nworkers = 1\n"
            f"threads = {THREADS}\n"
            + "".join(
                f"""
[[models]]
name = "{name}"
factory = "hanging_model:create"
options = {{ gate = "{gate}", beside_the_engine = {str(beside_the_engine).lower()} }}
rows = [1]
"""
                for name, gate in (("hangs", self.gate), ("quick", directory / "open"))
            ),
            encoding="utf-8",
        )
        self.server: Server = start(config)
        self.server.until(self.server.ready, "readiness")

    def ask(self, model: str, value: float, timeout_ms: int | None = None) -> requests.Response:
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [value]}
        headers = {} if timeout_ms is None else {"X-Request-Timeout-Ms": str(timeout_ms)}
        url = f"{self.server.url}/v2/models/{model}/infer"
        return requests.post(url, json={"inputs": [tensor]}, headers=headers, timeout=100)

    def get(self, path: str) -> requests.Response:
        return requests.get(f"{self.server.url}{path}", timeout=100)

    def open(self) -> None:
        self.gate.touch()


@pytest.fixture(params=["in the HTTP process", "beside the engine"])
def hanging(request: Any, tmp_path: Path, start: Any) -> Hanging:
    return Hanging(tmp_path, start, beside_the_engine=request.param == "beside the engine")


@pytest.mark.parametrize("value", [1.0, -9.0], ids=["preprocess", "postprocess"])
def test_hooks_that_hang_hold_neither_their_clients_nor_anything_else(
    hanging: Hanging, value: float
) -> None:
    with ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(hanging.ask, "hangs", value, 700) for _ in range(20)]
        for path in OWN_ROUTES:
            assert hanging.get(path).status_code in (200, 503)
        assert hanging.ask("quick", 1.0).json()["outputs"][0]["data"] == [2.0]
        statuses = {future.result().status_code for future in asked}
    assert 504 in statuses
    assert statuses <= {503, 504}

    # more hooks hang, until no thread is left
    hanging.server.until(
        lambda: hanging.ask("hangs", value, 300).status_code >= 503 and not is_ready(hanging),
        "a lane without threads",
    )
    assert hanging.ask("quick", 1.0).status_code == 200
    said = hanging.get("/readyz").json()
    assert "have passed their deadlines" in said["models"]["hangs"]["reason"]
    assert "reason" not in said["models"]["quick"]
    assert hanging.get("/v2/models/quick/ready").status_code == 200

    hanging.open()
    hanging.server.until(hanging.server.ready, "readiness when the hooks have returned")
    assert hanging.ask("hangs", value).json()["outputs"][0]["data"] == [2 * value]


def is_ready(hanging: Hanging) -> bool:
    return hanging.get("/readyz").status_code == 200
