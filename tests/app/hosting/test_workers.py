"""How many HTTP processes `auto` means."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.hosting import workers
from app.hosting.workers import automatic, choose, has_accelerator, usable_cores
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
