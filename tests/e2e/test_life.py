"""Start, refusals, disconnects and shutdown of a real server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.e2e.server import BIN, ROOT, Server

pytestmark = pytest.mark.e2e

HERE = Path(__file__).parent


class Slow:
    """A server whose model waits for the `gate` file."""

    def __init__(
        self,
        directory: Path,
        start: Any,
        *command: str,
        worker: str = "brim",
        **settings: Any,
    ) -> None:
        self.gate, self.count = directory / "gate", directory / "count"
        (directory / "slow_model.py").symlink_to(HERE / "slow_model.py")
        lines = "\n".join(f"{key} = {value}" for key, value in settings.items())
        config = directory / "slow.toml"
        config.write_text(
            f"""
[server]
worker = "{worker}"
graceful_timeout_s = 100

[[models]]
name = "slow"
factory = "slow_model:create"
options = {{ gate = "{self.gate}", count = "{self.count}" }}
rows = [1]
{lines}
""",
            encoding="utf-8",
        )
        self.server: Server = start(config, *command, BRIM_CONFIG=str(config))
        self.server.until(self.server.ready, "readiness")

    def ask(self, value: float = 1.0) -> requests.Response:
        return self.server.infer("slow", name="x", datatype="FP32", shape=[1, 1], data=[value])

    def stats(self) -> dict[str, Any]:
        url = f"{self.server.url}/v2/models/slow/stats"
        said: dict[str, Any] = requests.get(url, timeout=10).json()
        return said

    def executed_rows(self) -> int:
        if not self.count.exists():
            return 0
        return sum(map(int, self.count.read_text(encoding="utf-8").split()))


def test_while_compiling_it_is_alive_but_not_ready_and_reports_progress(
    start: Any, tmp_path: Path
) -> None:
    # the engine's thread imports this module, which waits for the test
    (tmp_path / "late_model.py").write_text(
        "import pathlib, time\n"
        "def create(gate):\n"
        "    while not pathlib.Path(gate).exists(): time.sleep(0.01)\n"
        "    from examples.iris.iris_model import create\n"
        "    return create('iris.safetensors', 16)\n",
        encoding="utf-8",
    )
    config = tmp_path / "late.toml"
    config.write_text(
        f'[[models]]\nname = "late"\nfactory = "late_model:create"\n'
        f'options = {{ gate = "{tmp_path}/gate" }}\n',
        encoding="utf-8",
    )
    server = start(config, PYTHONPATH=str(HERE.parents[1]))
    server.until(server.alive, "a first answer")
    ready = requests.get(f"{server.url}/readyz", timeout=10)
    assert ready.status_code == 503
    where = ready.json()["models"]["late"]
    assert (where["state"], where["buckets_done"], where["buckets_total"]) == ("loading", 0, 6)
    refused = server.infer("late", name="x", datatype="FP32", shape=[1], data=[1.0])
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) >= 1
    (tmp_path / "gate").touch()
    server.until(server.ready, "readiness")
    assert server.stop() == 0


WORKERS = pytest.mark.parametrize("worker", ["brim", "gthread"])


@WORKERS
def test_sigterm_answers_accepted_requests_and_exits_0(
    start: Any, tmp_path: Path, worker: str
) -> None:
    slow = Slow(tmp_path, start, worker=worker)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(slow.ask, float(value)) for value in (1, 2, 3, 4)]
        slow.server.until(lambda: slow.stats()["counts"]["accepted"] == 4, "four requests")
        slow.server.process.send_signal(signal.SIGTERM)
        slow.server.until(lambda: "slow is draining" in slow.server.log, "the drain")
        slow.gate.touch()
        answers = [future.result() for future in asked]
    assert [answer.status_code for answer in answers] == [200] * 4
    assert [answer.json()["outputs"][0]["data"] for answer in answers] == [[2], [4], [6], [8]]
    assert slow.server.process.wait(60) == 0


@WORKERS
def test_a_client_that_disconnects_while_queued_never_reaches_the_device(
    start: Any, tmp_path: Path, worker: str
) -> None:
    slow = Slow(tmp_path, start, worker=worker, in_flight=1)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(slow.ask, 1.0)
        slow.server.until(lambda: slow.executed_rows() == 1, "the first on the device")
        body = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[5]}]}'
        with socket.create_connection(("127.0.0.1", slow.server.port)) as client:
            client.sendall(
                b"POST /v2/models/slow/infer HTTP/1.1\r\nHost: brim\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            slow.server.until(lambda: slow.stats()["queue_depth"] == 1, "the second in the queue")
        slow.server.until(lambda: slow.stats()["counts"]["cancelled"] == 1, "the cancellation")
        assert slow.stats()["queue_depth"] == 0
        slow.gate.touch()
        assert first.result().status_code == 200
    assert slow.ask(3.0).json()["outputs"][0]["data"] == [6]
    assert slow.executed_rows() == 2
    assert slow.server.stop() == 0


@WORKERS
def test_behind_a_users_middleware_requests_are_counted_with_their_final_answer(
    start: Any, tmp_path: Path, worker: str
) -> None:
    gunicorn = [str(BIN / "gunicorn"), "-c", "configs/gunicorn.py", "-b", "127.0.0.1:{port}"]
    log = ["--access-logfile", "-", "--access-logformat", "access %(U)s %(s)s"]
    slow = Slow(tmp_path, start, *gunicorn, *log, "tests.e2e.wrapped_app:app", worker=worker)
    line = "access /v2/models/slow/infer"

    def seconds() -> float:
        said = requests.get(f"{slow.server.url}/metrics", timeout=10).text.lower()
        name = "flask_http_request_duration_seconds_sum"
        sums = [row for row in said.splitlines() if row.startswith(name) and "/infer" in row]
        return sum(float(row.rpartition(" ")[2]) for row in sums)

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(slow.ask, 3.0)
        slow.server.until(lambda: slow.executed_rows() == 1, "the row on the device")
        begun = time.monotonic()
        assert slow.server.alive()
        assert seconds() == 0
        assert line not in slow.server.log
        waited = time.monotonic() - begun
        slow.gate.touch()
        assert b'"DATA":[6.0]' in asked.result().content
    slow.server.until(lambda: f"{line} 200" in slow.server.log, "the access log")
    assert seconds() >= waited
    assert slow.server.stop() == 0


def test_a_deadline_includes_the_queue_and_a_full_queue_has_retry_after(
    start: Any, tmp_path: Path
) -> None:
    slow = Slow(tmp_path, start, in_flight=1, max_queue_rows=1, timeout_ms=3000)
    with ThreadPoolExecutor(2) as pool:
        on_device = pool.submit(slow.ask)
        slow.server.until(lambda: slow.executed_rows() == 1, "the first on the device")
        queued = pool.submit(slow.ask)
        slow.server.until(lambda: slow.stats()["queue_depth"] == 1, "the second in the queue")
        refused = slow.ask()
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        assert queued.result().status_code == 504
        assert on_device.result().status_code == 504
    slow.gate.touch()
    slow.server.until(lambda: slow.stats()["batches_in_flight"] == 0, "the device")
    assert slow.stats()["queue_depth"] == 0
    assert slow.executed_rows() == 1
    assert slow.ask(4.0).json()["outputs"][0]["data"] == [8]
    assert slow.server.stop() == 0


def test_sigterm_while_compiling_exits_0(start: Any) -> None:
    server = start(HERE.parents[1] / "configs" / "demo.toml")
    server.until(server.alive, "a first answer")
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        pytest.param('[[models]]\nname = "m"\nfamly = "digits"\n', "family", id="unknown-key"),
        pytest.param(
            '[[models]]\nname = "m"\nfamily = "digits"\npath = "no.safetensors"\n',
            "no.safetensors",
            id="missing-weights",
        ),
        pytest.param("models = [", "TOML", id="unreadable"),
    ],
)
@pytest.mark.parametrize("host", ["brim", "gunicorn"])
def test_a_wrong_config_exits_2_with_one_line_before_it_touches_a_device(
    host: str, config: str, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(config, encoding="utf-8")
    command = {
        "brim": [BIN / "brim", "serve", path],
        "gunicorn": [BIN / "gunicorn", "-c", "configs/gunicorn.py", "app.wsgi:app"],
    }[host]
    # touching this device, which does not exist, would fail differently
    env = os.environ | {"BRIM_CONFIG": str(path), "JAX_PLATFORMS": "nonexistent"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert str(path) in done.stderr
    assert problem in done.stderr
    assert "Traceback" not in done.stderr
