"""A scrape needs no free file descriptor."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, values
from prometheus_client.parser import text_string_to_metric_families

from app.http.factory import create_app
from app.http.services import DisconnectWatcher
from app.telemetry.every_process import LastKnown
from app.telemetry.exporter import HttpExporter, share_values
from engine.serving.client import InProcessClient
from engine.testing import PuppetCompiler, puppet_model
from tests.app.conftest import PATIENCE_S, settings_of


@contextmanager
def no_files() -> Iterator[None]:
    """Inside, no file can be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    try:
        try:
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        except OSError as error:
            assert error.errno == errno.EMFILE  # noqa: PT017
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_value_that_cannot_be_read_is_the_one_before(tmp_path: Path) -> None:
    file = tmp_path / "value"
    known = LastKnown(file.read_text)
    with no_files():
        assert known.get() is None
    file.write_text("one")
    assert known.get() == "one"
    with no_files():
        assert known.get() == "one"
    file.write_text("two")
    assert known.get() == "two"


def test_any_other_error_is_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        LastKnown((tmp_path / "nothing").read_text).get()


@pytest.mark.parametrize("shared", [True, False], ids=["many processes", "one process"])
def test_without_free_files_metrics_and_probes_answer(
    tmp_path: Path, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    monkeypatch.setattr("prometheus_client.metrics.values.ValueClass", values.ValueClass)
    if shared:
        share_values(str(tmp_path), 1)
    else:
        monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR")
    settings = settings_of()
    engine = InProcessClient(
        settings.models, load=lambda _config: puppet_model(), compiler=PuppetCompiler()
    )
    engine.start()
    disconnects = DisconnectWatcher()
    exporter = HttpExporter(CollectorRegistry(), str(tmp_path) if shared else None)
    client = create_app(settings, engine, exporter, disconnects).test_client()
    assert engine.wait_startup_finished(PATIENCE_S)
    try:
        assert client.get("/healthz").status_code == 200
        before = names_of(client.get("/metrics").text)
        with no_files():
            assert client.get("/healthz").status_code == 200
            assert client.get("/readyz").status_code == 200
            scraped = client.get("/metrics")
            assert scraped.status_code == 200
        # the process's own collector leaves out what it cannot read
        missing = {name for name in before - names_of(scraped.text) if "process_" not in name}
        assert not missing
        assert "memory_rss_bytes" in before
        assert any(name.startswith("flask_http_request") for name in before)
    finally:
        disconnects.close()
        engine.close()


def names_of(text: str) -> set[str]:
    return {family.name for family in text_string_to_metric_families(text)}
