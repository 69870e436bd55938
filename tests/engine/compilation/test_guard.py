"""The guard hears every compilation that start-up did not expect, and no other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest

from engine.compilation.compiler import JaxCompiler
from engine.compilation.guard import expected_compiles, watch_compiles
from engine.errors import LoadError
from engine.models.model import ModelState
from engine.scheduling.buckets import Bucket
from engine.testing import RecordingObserver, puppet_config, puppet_model, rows
from tests.engine.compilation.matrix import matrix_model


def compile_something() -> None:
    """A function that JAX has never seen."""
    jax.jit(lambda x: x + 1)(np.ones(3, np.float32))


def in_a_thread(function: Callable[[], None]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


@pytest.fixture
def reported() -> Iterator[list[str]]:
    """Grows with every compile that was not expected."""
    alarms: list[str] = []
    unwatch = watch_compiles(lambda: alarms.append("compiled"))
    yield alarms
    unwatch()


def test_a_compile_is_reported_in_whatever_thread_it_happens(reported: list[str]) -> None:
    compile_something()
    assert len(reported) == 1
    in_a_thread(compile_something)
    assert len(reported) == 2


def test_what_is_expected_is_not_reported(reported: list[str]) -> None:
    with expected_compiles():
        compile_something()
        with expected_compiles():
            compile_something()
        compile_something()
    assert reported == []
    compile_something()
    assert len(reported) == 1


def test_the_compiler_s_own_compiles_are_expected(reported: list[str]) -> None:
    JaxCompiler(matrix_model()).compile(Bucket(3))
    assert reported == []


def test_expecting_compiles_in_one_thread_does_not_cover_another(reported: list[str]) -> None:
    with expected_compiles():
        in_a_thread(compile_something)
    assert len(reported) == 1


def test_an_error_ends_the_expectation(reported: list[str]) -> None:
    with pytest.raises(LoadError), expected_compiles():
        raise LoadError("while tracing")
    compile_something()
    assert len(reported) == 1


def test_two_watches_both_report_and_one_that_has_ended_does_not(reported: list[str]) -> None:
    others: list[str] = []
    unwatch = watch_compiles(lambda: others.append("compiled"))
    compile_something()
    unwatch()
    unwatch()  # twice is once
    compile_something()
    assert len(reported) == 2
    assert len(others) == 1


def test_running_a_compiled_function_again_is_no_compile(reported: list[str]) -> None:
    compiler = JaxCompiler(puppet_model())
    executable = compiler.compile(Bucket(2))
    for _ in range(2):
        executable.launch(compiler.weights, rows(1, 2)).result()
    assert reported == []


def test_the_client_counts_what_compiles_after_ready_and_reports_it(serving: Any) -> None:
    observer = RecordingObserver()
    config = puppet_config()
    with serving(config, observer=observer, load=lambda _config: puppet_model()) as client:
        assert client.endpoint("puppet").snapshot().state is ModelState.READY
        assert client.snapshot().compiles_after_ready == 0
        in_a_thread(compile_something)
        assert client.snapshot().compiles_after_ready == 1
        assert observer.named("compiled_after_ready") == [()]
    compile_something()
    assert client.snapshot().compiles_after_ready == 1, "closed: it counts no more"
