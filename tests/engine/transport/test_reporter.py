"""The status page is written when it is due, and a batch that hangs is told from a pause."""

from __future__ import annotations

import pytest

from engine.models.model import ModelState
from engine.telemetry.snapshots import EngineStatus, LoadSnapshot, ModelStatus, Progress
from engine.transport.protocol.status import StatusPage
from engine.transport.server.reporter import IDLE_S, LOADED_S, SURE_S, Reporter


def status(load: LoadSnapshot) -> EngineStatus:
    progress = Progress(1, 1, 0.0, 0.0)
    return EngineStatus((ModelStatus("m", "1", ModelState.READY, None, True, progress, load),))


IDLE = status(LoadSnapshot())
BUSY = status(LoadSnapshot(batches_in_flight=1))
HUNG = status(LoadSnapshot(batches_in_flight=1, stalled_s=51.4, hung=True))


@pytest.mark.parametrize(("state", "seconds"), [(IDLE, IDLE_S), (BUSY, LOADED_S)])
def test_the_page_is_due_sooner_while_there_is_work(state: EngineStatus, seconds: float) -> None:
    page = StatusPage.create()
    reporter = Reporter(page)
    assert reporter.write(state, 5.0) is None
    assert (page.read(), page.beaten_at, reporter.due) == (state, 5.0, 5.0 + seconds)


def test_a_batch_hangs_when_it_is_seen_to_hang_for_a_while() -> None:
    reporter = Reporter(StatusPage.create())
    assert reporter.write(HUNG, 5.0) is None
    assert reporter.write(HUNG, 5.0 + SURE_S / 2) is None
    reason = "model m: a batch has been on the device for 51 s"
    assert reporter.write(HUNG, 5.0 + SURE_S) == reason


def test_after_a_pause_of_the_machine_a_batch_only_seems_to_hang() -> None:
    reporter = Reporter(StatusPage.create())
    assert reporter.write(HUNG, 5.0) is None
    assert reporter.write(IDLE, 5.1) is None
    assert reporter.write(HUNG, 5.0 + SURE_S) is None
