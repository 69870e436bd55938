"""The server's processes: what each holds, and what happens when one of them dies or stops."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from tests.e2e.server import BIN, PATIENCE_S, ROOT, Server, free_port

pytestmark = pytest.mark.e2e

HERE = Path(__file__).parent
MODEL = """
[[models]]
name = "slow"
factory = "slow_model:create"
options = {{ gate = "{directory}/gate", count = "{directory}/count" }}
rows = [1]
{more}
"""


def folders() -> set[Path]:
    """The folders of metrics of all servers."""
    return set(Path("/dev/shm").glob("brim-*"))


class Processes:
    """A server of several processes whose model waits for the `gate` file."""

    def __init__(self, directory: Path, start: Callable[..., Server], *command: str) -> None:
        (directory / "slow_model.py").symlink_to(HERE / "slow_model.py")
        self.gate = directory / "gate"
        self.config = directory / "slow.toml"
        self.directory = directory
        self.write()
        others = folders()
        self.server = start(self.config, *command, BRIM_CONFIG=str(self.config), BRIM_WORKERS="2")
        self.server.until(self.server.ready, "readiness")
        self.folders = folders() - others

    def write(self, server: str = "", more: str = "") -> None:
        """Write the configuration."""
        text = MODEL.format(directory=self.directory, more=more)
        self.config.write_text(f"[server]\n{server}\n{text}", encoding="utf-8")

    @property
    def processes(self) -> dict[str, list[psutil.Process]]:
        """The processes under the master by what they are."""
        found: dict[str, list[psutil.Process]] = {"supervisor": [], "engine": [], "worker": []}
        for process in psutil.Process(self.server.process.pid).children(recursive=True):
            try:
                words = " ".join(process.cmdline())
            except psutil.NoSuchProcess:
                continue
            kinds = {"brim: supervisor": "supervisor", "brim: engine": "engine"}
            kinds["gunicorn: worker"] = "worker"
            for word, kind in kinds.items():
                if word in words:
                    found[kind].append(process)
                    break
        return found

    @property
    def engine(self) -> psutil.Process:
        """The only engine's process."""
        (engine,) = self.processes["engine"]
        return engine

    @property
    def workers(self) -> list[psutil.Process]:
        """The HTTP processes."""
        return self.processes["worker"]

    def ask(self, value: float = 1.0) -> requests.Response:
        """One request on a connection of its own."""
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [value]}
        return self.server.infer("slow", **tensor)

    def counts(self) -> dict[str, int]:
        """Of all workers and the engine together."""
        url = f"{self.server.url}/v2/models/slow/stats"
        counts: dict[str, int] = requests.get(url, timeout=10).json()["counts"]
        return counts


@pytest.fixture
def brim(tmp_path: Path, start: Callable[..., Server]) -> Iterator[Processes]:
    brim = Processes(tmp_path, start)
    yield brim
    brim.gate.touch()
    brim.server.stop()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as pool:
        yield pool


def value_of(answer: requests.Response) -> float:
    assert answer.status_code == 200, answer.text
    return float(answer.json()["outputs"][0]["data"][0])


# --- what each process holds ----------------------------------------------------------------------


def test_one_process_has_jax_and_the_others_do_not(brim: Processes) -> None:
    with_jax = {
        process.pid
        for processes in brim.processes.values()
        for process in [*processes, psutil.Process(brim.server.process.pid)]
        if any("jaxlib" in file.path for file in process.memory_maps())
    }
    assert with_jax == {brim.engine.pid}
    assert len(brim.workers) == 2


def test_gunicorns_own_command_starts_the_same_processes(
    tmp_path: Path, start: Callable[..., Server]
) -> None:
    gunicorn = [str(BIN / "gunicorn"), "-c", "configs/gunicorn.py", "-b", "127.0.0.1:{port}"]
    brim = Processes(tmp_path, start, *gunicorn, "-w", "3", "app.wsgi:app")
    assert len(brim.workers) == 3
    assert "3 HTTP processes (as gunicorn was told), one engine process" in brim.server.log
    brim.gate.touch()
    assert value_of(brim.ask(3.0)) == 6.0
    assert brim.server.stop() == 0


def test_workers_come_and_go_by_signal(brim: Processes) -> None:
    brim.gate.touch()
    for number, count in ((signal.SIGTTIN, 3), (signal.SIGTTOU, 2), (signal.SIGTTOU, 1)):
        brim.server.process.send_signal(number)
        brim.server.until(lambda: len(brim.workers) == count, "the workers")  # noqa: B023
        assert [value_of(brim.ask(float(v))) for v in range(4)] == [0.0, 2.0, 4.0, 6.0]


def test_every_process_tells_of_the_whole_server(brim: Processes) -> None:
    brim.gate.touch()
    for _ in range(20):  # connections of their own, so that both workers get some
        assert brim.ask().status_code == 200
    assert brim.counts()["succeeded"] == 20

    def infers() -> set[float]:
        """What some scrapes say, each answered by one of the workers."""
        said = [requests.get(f"{brim.server.url}/metrics", timeout=10).text for _ in range(10)]
        name = 'flask_http_request_total{method="POST",status="200"}'
        return {
            float(line.split()[-1])
            for text in said
            for line in text.splitlines()
            if line.startswith(name)
        }

    assert infers() == {20.0}
    before = {process.pid for process in brim.workers}
    for process in brim.workers:
        process.kill()
    brim.server.until(
        lambda: len(brim.workers) == 2 and not before & {p.pid for p in brim.workers}, "new workers"
    )
    brim.server.until(brim.server.ready, "readiness")
    assert brim.ask().status_code == 200
    assert infers() == {21.0}, "the counts of the dead are not lost"


# --- one of them dies -----------------------------------------------------------------------------


def outcome(answered: Future[requests.Response]) -> int | None:
    """The status; None where the connection was lost."""
    try:
        return answered.result(PATIENCE_S).status_code
    except requests.ConnectionError:
        return None


def test_a_worker_that_is_killed_takes_only_its_own_requests(
    brim: Processes, pool: ThreadPoolExecutor
) -> None:
    asked = [pool.submit(brim.ask, float(value)) for value in range(1, 17)]
    brim.server.until(lambda: brim.counts()["accepted"] == 16, "sixteen requests")
    victim = max(brim.workers, key=lambda process: process.num_fds())  # it has most connections
    victim.kill()
    brim.server.until(
        lambda: len(brim.workers) == 2 and victim.pid not in {p.pid for p in brim.workers},
        "another worker",
    )
    brim.gate.touch()
    statuses = [outcome(answered) for answered in asked]
    lost = statuses.count(None)
    assert lost > 0
    assert statuses.count(200) == 16 - lost
    for value, answered in enumerate(asked, 1):
        if statuses[value - 1] == 200:
            assert value_of(answered.result()) == 2.0 * value
    assert value_of(brim.ask(7.0)) == 14.0
    counts = brim.counts()
    assert counts["cancelled"] == lost, "the engine knows that nobody waits for these"
    assert counts["succeeded"] == 17 - lost


def test_when_the_engine_is_killed_its_requests_are_told_and_it_comes_back(
    brim: Processes, pool: ThreadPoolExecutor
) -> None:
    asked = [pool.submit(brim.ask, float(value)) for value in range(1, 9)]
    brim.server.until(lambda: brim.counts()["accepted"] == 8, "eight requests")
    first = brim.engine
    first.kill()
    answers = [answered.result(PATIENCE_S) for answered in asked]
    assert {answer.status_code for answer in answers} == {503}
    assert all("the engine's process has ended" in answer.text for answer in answers)
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in answers)
    assert brim.server.alive()
    brim.gate.touch()
    brim.server.until(
        lambda: first.pid not in {p.pid for p in brim.processes["engine"]} and brim.server.ready(),
        "another engine",
    )
    assert value_of(brim.ask(4.0)) == 8.0
    assert "was killed by SIGKILL; it is started again in 1 s" in brim.server.log


def gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


@pytest.mark.parametrize("who", ["master", "supervisor"])
def test_without_its_master_or_supervisor_nothing_is_left_running(
    brim: Processes, who: str
) -> None:
    every = [process for processes in brim.processes.values() for process in processes]
    assert len(brim.folders) == 1
    brim.gate.touch()
    victim = brim.server.process.pid if who == "master" else brim.processes["supervisor"][0].pid
    os.kill(victim, signal.SIGKILL)
    give_up_at = time.monotonic() + PATIENCE_S
    while not gone(every) and time.monotonic() < give_up_at:
        time.sleep(0.05)
    assert gone(every)
    status = brim.server.process.wait(PATIENCE_S)
    assert status == (-signal.SIGKILL if who == "master" else 1)
    while folders() & brim.folders and time.monotonic() < give_up_at:
        time.sleep(0.05)
    assert not folders() & brim.folders


@pytest.mark.parametrize("who", ["engine", "worker", "master", "supervisor"])
def test_nothing_is_lost_while_a_process_is_stopped(
    brim: Processes, pool: ThreadPoolExecutor, who: str
) -> None:
    brim.gate.touch()
    assert brim.ask().status_code == 200
    pid = brim.server.process.pid if who == "master" else brim.processes[who][0].pid
    os.kill(pid, signal.SIGSTOP)
    try:
        asked = [pool.submit(brim.ask, float(value)) for value in range(12)]
        time.sleep(5.0)
    finally:
        os.kill(pid, signal.SIGCONT)
    answers = [answered.result(PATIENCE_S) for answered in asked]
    assert [value_of(answer) for answer in answers] == [2.0 * value for value in range(12)]
    assert brim.server.ready()


# --- it cannot start ------------------------------------------------------------------------------


def write_model(directory: Path, code: str) -> Path:
    (directory / "broken_model.py").write_text(code, encoding="utf-8")
    config = directory / "broken.toml"
    config.write_text('[[models]]\nname = "b"\nfactory = "broken_model:create"\n', encoding="utf-8")
    return config


def test_an_engine_that_cannot_start_ends_the_server_with_the_reason(
    tmp_path: Path, start: Callable[..., Server]
) -> None:
    code = "import os\n\ndef create():\n    os._exit(7)\n"
    server = start(write_model(tmp_path, code))
    assert server.process.wait(PATIENCE_S) == 1
    assert server.log.count("the engine's process ended with status 7; it is started again") == 2
    assert "the engine's process ended with status 7, 3 times before it was up" in server.log


def test_http_processes_that_all_die_at_their_start_end_the_server_with_the_reason(
    tmp_path: Path, start: Callable[..., Server]
) -> None:
    """gunicorn would start the next one for ever, and each is alive for a moment."""
    host = """
import os, sys
from brim import HostProcessor

if "jax" not in sys.modules:  # in an HTTP process
    os._exit(7)

def make():
    return HostProcessor()
"""
    (tmp_path / "broken_host.py").write_text(host, encoding="utf-8")
    code = """
from brim import Model, TensorSpec

def create():
    spec = TensorSpec("x", "FP32", (1,))
    apply = lambda _, inputs: inputs
    return Model(apply=apply, params={}, inputs=[spec], outputs=[spec], host="broken_host:make")
"""
    server = start(write_model(tmp_path, code))
    assert server.process.wait(PATIENCE_S) == 1
    assert "10 HTTP processes in a row have died soon after their start" in server.log


def test_sigterm_while_a_model_loads_ends_it_without_waiting(
    tmp_path: Path, start: Callable[..., Server]
) -> None:
    code = "import time\n\ndef create():\n    time.sleep(1000)\n"
    server = start(write_model(tmp_path, code))
    server.until(server.alive, "a first answer")
    assert server.stop() == 0


# --- the file changes -----------------------------------------------------------------------------


class Load:
    """Asks all the time, on connections of their own, until `stop`."""

    def __init__(self, brim: Processes) -> None:
        self.statuses: list[int | None] = []
        self._brim = brim
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(4)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.statuses.append(self._brim.ask().status_code)
            except requests.ConnectionError:
                self.statuses.append(None)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_sighup_serves_a_changed_file_and_no_request_is_refused(brim: Processes) -> None:
    brim.gate.touch()
    engine, workers = brim.engine.pid, {process.pid for process in brim.workers}
    brim.write(more="timeout_ms = 1234")
    load = Load(brim)
    brim.server.process.send_signal(signal.SIGHUP)
    brim.server.until(
        lambda: (
            [p.pid for p in brim.processes["engine"]] != [engine]
            and len(brim.processes["engine"]) == 1
            and not workers & {p.pid for p in brim.workers}
        ),
        "the new processes alone",
    )
    load.stop()
    assert set(load.statuses) == {200}
    config = requests.get(f"{brim.server.url}/v2/models/slow/config", timeout=10).json()
    assert "1234000" in str(config)
    assert brim.server.stop() == 0


@pytest.mark.parametrize(
    ("server", "more", "told"),
    [
        ("keepalive_s = -1", "", "server.keepalive_s: got -1"),
        ("", "lengths = [3]", "but no input has a dynamic axis"),
    ],
    ids=["a wrong key", "a model that fails"],
)
def test_sighup_with_a_mistake_in_the_file_changes_nothing(
    brim: Processes, server: str, more: str, told: str
) -> None:
    brim.gate.touch()
    engine, workers = brim.engine.pid, {process.pid for process in brim.workers}
    brim.write(server, more)
    brim.server.process.send_signal(signal.SIGHUP)
    stays = "the configuration before it stays"
    brim.server.until(lambda: stays in brim.server.log, "the mistake")
    brim.server.until(lambda: not workers & {p.pid for p in brim.workers}, "the new workers")
    assert told in brim.server.log
    brim.server.until(lambda: len(brim.processes["engine"]) == 1, "one engine")
    assert brim.engine.pid == engine
    assert value_of(brim.ask(2.0)) == 4.0


def test_after_sigusr2_the_new_server_takes_over_when_its_engine_is_ready(brim: Processes) -> None:
    brim.gate.touch()
    old = psutil.Process(brim.server.process.pid)
    load = Load(brim)
    old.send_signal(signal.SIGUSR2)

    def masters() -> list[psutil.Process]:
        titles = [(p, " ".join(p.cmdline())) for p in old.children() if p.is_running()]
        return [process for process, title in titles if "gunicorn: master" in title]

    def workers(process: psutil.Process) -> list[psutil.Process]:
        return [p for p in process.children() if "gunicorn: worker" in " ".join(p.cmdline())]

    brim.server.until(lambda: any(workers(new) for new in masters()), "workers of the new master")
    (new,) = masters()
    family = [new, *new.children(recursive=True)]
    load.stop()
    assert set(load.statuses) == {200}
    assert brim.server.stop() == 0
    assert value_of(brim.ask(6.0)) == 12.0
    new.terminate()
    give_up_at = time.monotonic() + PATIENCE_S
    while not gone(family) and time.monotonic() < give_up_at:
        time.sleep(0.05)
    assert gone(family)


# --- other systems --------------------------------------------------------------------------------

HIDE = "import os\ndel os.memfd_create, os.eventfd\n"


def test_without_shared_memory_the_engine_is_in_the_http_process(
    tmp_path: Path, start: Callable[..., Server], digits_config: Path
) -> None:
    """As on macOS: what it lacks is hidden from every process."""
    (tmp_path / "sitecustomize.py").write_text(HIDE, encoding="utf-8")
    server = start(digits_config, PYTHONPATH=str(tmp_path))
    server.until(server.ready, "readiness")
    assert "the engine runs in the HTTP process (gthread)" in server.log
    image: dict[str, Any] = {"name": "image", "datatype": "FP32", "shape": [1, 8, 8]}
    answer = server.infer("digits", **image, data=[0.0] * 64)
    assert answer.status_code == 200
    assert len(psutil.Process(server.process.pid).children(recursive=True)) == 1
    assert server.stop() == 0
    assert (ROOT / "configs").exists()


# --- where it listens -----------------------------------------------------------------------------


def status_over(path: Path) -> int:
    """The status of `/readyz` at a Unix socket; 0 without a server."""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"GET /readyz HTTP/1.1\r\nHost: brim\r\nConnection: close\r\n\r\n")
            return int(client.makefile("rb").readline().split()[1])
    except OSError:
        return 0


def test_a_unix_socket_is_served_and_named(
    tmp_path: Path, start: Callable[..., Server], digits_config: Path
) -> None:
    path = tmp_path / "brim.sock"
    brim = [str(BIN / "brim"), "serve", str(digits_config), "--bind", f"unix:{path}"]
    server = start(digits_config, *brim)
    server.until(lambda: status_over(path) == 200, "readiness")
    assert f"listens on unix:{path}\n" in server.log
    assert f"try: curl -s --unix-socket {path} http://localhost/v2" in server.log
    assert server.stop() == 0
    assert not path.exists()


def test_the_address_that_gunicorn_was_given_is_named(
    start: Callable[..., Server], digits_config: Path
) -> None:
    gunicorn = [str(BIN / "gunicorn"), "-c", "configs/gunicorn.py", "-b", "[::1]:{port}"]
    server = start(digits_config, *gunicorn, "app.wsgi:app", BRIM_CONFIG=str(digits_config))
    server.url = f"http://[::1]:{server.port}"
    server.until(server.ready, "readiness")
    assert f"listens on {server.url};" in server.log
    assert f"try: curl -s {server.url}/v2" in server.log
    assert server.stop() == 0


def test_a_socket_that_systemd_hands_over_is_served_and_named(
    tmp_path: Path, digits_config: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        # systemd's protocol: the first socket is descriptor 3, for the process with this number
        handed = f"exec 3<&{listener.fileno()}; export LISTEN_FDS=1 LISTEN_PID=$$; exec"
        command = f"{handed} {BIN / 'brim'} serve {digits_config} --workers 2"
        passed = [listener.fileno()]
        server = Server(["bash", "-c", command], port, tmp_path / "log", {}, pass_fds=passed)
    server.until(server.ready, "readiness")
    assert f"listens on {server.url};" in server.log
    assert server.stop() == 0


def test_with_reuse_port_two_servers_listen_on_one_port(
    start: Callable[..., Server], digits_config: Path
) -> None:
    gunicorn = [str(BIN / "gunicorn"), "-c", "configs/gunicorn.py", "--reuse-port"]
    command = [*gunicorn, "-b", f"127.0.0.1:{free_port()}", "app.wsgi:app"]
    first, second = (start(digits_config, *command, BRIM_CONFIG=str(digits_config)) for _ in "12")
    for server in (first, second):
        server.url = f"http://{command[-2]}"
        server.until(lambda: f"try: curl -s {first.url}/v2" in server.log, "start")  # noqa: B023
    first.until(first.ready, "readiness")
    assert first.stop() == 0
    second.until(second.ready, "readiness")
    assert second.stop() == 0
