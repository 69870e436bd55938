"""How many HTTP processes `auto` means, and when no further one is started."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from app.hosting import workers
from app.hosting.workers import (
    MAX_CRASHES,
    YOUNG_S,
    Crashes,
    automatic,
    choose,
    has_accelerator,
    usable_cores,
)
from engine.testing import FakeClock
from tests.app.conftest import settings_of


@pytest.mark.parametrize(
    ("cores", "accelerator", "number"),
    [
        (1, False, 1),
        (2, False, 1),
        (8, False, 2),
        (128, False, 12),
        (1, True, 1),
        (2, True, 1),
        (8, True, 6),
        (16, True, 12),
        (128, True, 12),
    ],
)
def test_the_cores_beside_the_devices_needs_serve_http(
    cores: int, accelerator: bool, number: int
) -> None:
    choice = automatic(cores, accelerator=accelerator)
    assert choice.workers == number
    assert choice.reason.startswith(f"{cores} cores, ")


def test_a_number_in_the_configuration_is_taken_as_it_is() -> None:
    assert choose(settings_of(workers=40)) == (40, "as configured")
    assert choose(settings_of(workers="auto")).workers >= 1


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("max 100000\n", 16),
        ("400000 100000\n", 4),
        ("50000 100000\n", 1),
        ("9999999 100000\n", 16),
        ("nonsense\n", 16),
        (None, 16),
    ],
)
def test_a_containers_share_of_the_machine_counts(
    quota: str | None, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cpu.max"
    if quota is not None:
        file.write_text(quota, encoding="ascii")
    monkeypatch.setattr(workers, "_QUOTA", file)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(16)))
    assert usable_cores() == cores


@pytest.mark.parametrize(
    ("platforms", "plugin", "found"),
    [("", True, True), ("cuda,cpu", True, True), ("cpu", True, False), ("", False, False)],
)
def test_a_device_is_expected_where_jax_has_its_plugin(
    platforms: str, plugin: bool, found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setattr(workers, "find_spec", lambda _name: object() if plugin else None)
    assert has_accelerator() is found


# --- workers that die soon ------------------------------------------------------------------------


class Workers:
    """What gunicorn's master would tell of its workers."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.crashes = Crashes(self.clock)

    def live(self, seconds: float, *, orderly: bool = False, slot: int = 0) -> bool:
        """One starts and ends; whether to give up."""
        worker = SimpleNamespace(slot=slot)
        self.crashes.started(worker)
        self.clock.advance(seconds)
        if orderly:
            self.crashes.orderly(worker)
        return self.crashes.ended(worker, self.others)

    others: tuple[SimpleNamespace, ...] = ()


@pytest.mark.parametrize(
    ("lives", "gives_up"),
    [
        pytest.param([1.0] * MAX_CRASHES, True, id="each dies at once"),
        pytest.param([1.0] * (MAX_CRASHES - 1), False, id="not yet"),
        pytest.param([1.0] * (MAX_CRASHES - 1) + [YOUNG_S, 1.0], False, id="one lived"),
    ],
)
def test_when_each_worker_dies_at_its_start_the_server_gives_up(
    lives: list[float], gives_up: bool
) -> None:
    workers = Workers()
    assert [workers.live(seconds) for seconds in lives][-1] is gives_up


def test_workers_that_end_in_order_are_no_crashes() -> None:
    workers = Workers()
    assert not any(workers.live(1.0, orderly=True) for _ in range(3 * MAX_CRASHES))


def test_as_long_as_another_worker_serves_the_server_does_not_give_up() -> None:
    workers = Workers()
    serving = SimpleNamespace(slot=1)
    workers.crashes.started(serving)
    workers.clock.advance(YOUNG_S)
    workers.others = (serving,)
    assert not any(workers.live(1.0) for _ in range(3 * MAX_CRASHES))
