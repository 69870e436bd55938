"""Servers that are started in a directory with an `app` and an `engine` package of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.e2e.server import ROOT, Server, free_port
from tests.test_brim import CONFIG, FACTORY

pytestmark = pytest.mark.e2e

GUNICORN = ("-m", "gunicorn", "-c", str(ROOT / "configs" / "gunicorn.py"), "app.wsgi:app")

COLLIDING = """
[[models]]
name = "colliding"
factory = "their_model:create"
required = false
"""


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(("-m", "brim", "serve", "brim.toml"), id="brim"),
        pytest.param(("-P", *GUNICORN), id="gunicorn"),
        pytest.param(GUNICORN, id="python-m-gunicorn"),
    ],
)
def test_a_server_runs_in_a_directory_with_an_app_of_its_own_and_says_what_collides(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    for name in ("app", "engine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (tmp_path / "my_model.py").write_text(FACTORY)
    (tmp_path / "their_model.py").write_text("from app.features import scale\n")
    (tmp_path / "brim.toml").write_text(CONFIG + "rows = [1]\n" + COLLIDING)
    port = free_port()
    env = {
        "BRIM_BIND": f"127.0.0.1:{port}",
        "BRIM_CONFIG": "brim.toml",
        "PYTHONPATH": str(ROOT),
    }
    server = Server([sys.executable, *command], port, tmp_path / "log", env, cwd=tmp_path)
    try:
        server.until(server.ready, "readiness")
        answer = server.infer("mine", name="x", datatype="FP32", shape=[1, 4], data=[1, 2, 3, 4])
        assert answer.json()["outputs"][0]["data"] == [2, 4, 6, 8]
        hides = f"Brim's own {ROOT / 'app'} hides {tmp_path / 'app'}: rename your app"
        server.until(lambda: f"No module named 'app.features' ({hides}" in server.log, "the reason")
    finally:
        assert server.stop() == 0, server.log
