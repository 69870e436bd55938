"""What follows the end of an engine's process, and when it is ended because it is silent."""

from __future__ import annotations

import sys
import threading
import time

import pytest

from app.hosting import supervisor
from app.hosting.supervisor import LONGEST_PAUSE_S, STEADY_S, Ended, Restarts, Supervisor
from engine.transport.protocol.status import StatusPage


@pytest.mark.parametrize(
    ("status", "reason"),
    [(-9, "was killed by SIGKILL"), (-6, "was killed by SIGABRT"), (3, "ended with status 3")],
)
def test_the_reason_is_told_in_words(status: int, reason: str) -> None:
    assert Ended(status, True, 1.0).reason == reason


UP, NEVER_UP = Ended(-9, True, 1.0), Ended(1, False, 1.0)
STEADY = Ended(-9, True, STEADY_S)


@pytest.mark.parametrize(
    ("ends", "pauses"),
    [
        pytest.param([UP] * 7, [1, 2, 4, 8, 16, 30, 30], id="it dies again and again"),
        pytest.param([UP, UP, STEADY, UP], [1, 2, 1, 2], id="it was up for long"),
        pytest.param([NEVER_UP] * 3, [1, 2, None], id="it never comes up"),
        pytest.param(
            [NEVER_UP, NEVER_UP, UP, NEVER_UP, NEVER_UP, NEVER_UP],
            [1, 2, 4, 8, 16, None],
            id="it comes up once in between",
        ),
    ],
)
def test_the_pause_grows_until_another_start_makes_no_sense(
    ends: list[Ended], pauses: list[float | None]
) -> None:
    restarts = Restarts()
    assert [restarts.pause_after(ended) for ended in ends] == pauses
    assert max(pause for pause in pauses if pause) <= LONGEST_PAUSE_S


# --- the watch ------------------------------------------------------------------------------------

TELL = "import os, sys, time; os.write(int(sys.argv[-1]), b'u'); time.sleep(600)"
LOAD = "import time; time.sleep(600)"


@pytest.mark.parametrize(
    ("engine", "beat", "killed"),
    [
        pytest.param(TELL, False, True, id="up and silent"),
        pytest.param(TELL, True, False, id="up and beating"),
        pytest.param(LOAD, False, False, id="a start-up may be silent"),
    ],
)
def test_an_engine_that_was_up_and_is_silent_is_killed(
    engine: str,
    beat: bool,
    killed: bool,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    page = StatusPage.create()
    page.beat(time.monotonic() + (1e6 if beat else -1e6))
    looks = threading.Semaphore(0)
    real = supervisor.select.select

    def look(read: list[int], write: list[int], error: list[int], seconds: float) -> object:
        looks.release()
        return real(read, write, error, min(seconds, 0.01))

    monkeypatch.setattr(supervisor.select, "select", look)
    watched = Supervisor([sys.executable, "-c", engine], [page.memory.fd], b"\n")
    ends: list[Ended] = []
    thread = threading.Thread(target=lambda: ends.append(watched._run_engine()))
    thread.start()
    if not killed:
        assert all(looks.acquire(timeout=30) for _ in range(200))
        assert (thread.is_alive(), watched._engine is not None) == (True, True)
        assert watched._engine is not None
        watched._engine.terminate()
    thread.join(30)
    assert [ended.reason for ended in ends] == [f"was killed by SIG{'KILL' if killed else 'TERM'}"]
    assert ("silent for" in capfd.readouterr().err) is killed


def test_the_supervisor_knows_where_the_beat_is() -> None:
    page = StatusPage.create()
    page.beat(12.5)
    assert supervisor.BEAT.unpack_from(page.memory.map, supervisor.BEAT_AT)[0] == 12.5
