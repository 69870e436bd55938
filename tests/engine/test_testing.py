"""The doubles are honest: they do what their docstrings say, and no more."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from engine.compilation.interface import Weights
from engine.scheduling.buckets import Bucket
from engine.testing import (
    FakeClock,
    PuppetCompiler,
    PuppetExecutable,
    RecordingObserver,
    expected_rows,
    puppet_config,
    puppet_model,
    rows,
    texts,
)

NO_WEIGHTS = Weights([], 0)


def test_a_fake_clock_stands_still_until_it_is_moved() -> None:
    clock = FakeClock(5.0)
    assert clock() == clock() == 5.0
    clock.advance(0.5)
    assert clock() == 5.5


def test_the_puppet_model_answers_twice_the_input_plus_one() -> None:
    program = puppet_model().program
    assert np.array_equal(program.apply(program.params, rows(1, 2))["y"], expected_rows(1, 2))
    assert expected_rows(3).tolist() == [[7, -5]]
    assert expected_rows(3).dtype == np.float32


def test_a_puppet_runs_freely_and_remembers_what_it_was_given() -> None:
    puppet = PuppetExecutable()
    inputs = rows(1)
    assert np.array_equal(puppet.launch(NO_WEIGHTS, inputs).result()["y"], expected_rows(1))
    assert puppet.launched == [inputs]
    assert puppet.entered.acquire(blocking=False)


def test_a_held_puppet_says_that_it_is_waited_for_and_waits_for_the_test() -> None:
    puppet = PuppetExecutable()
    puppet.hold()
    running = puppet.launch(NO_WEIGHTS, rows(1))
    assert not puppet.entered.acquire(blocking=False)
    answers = []
    waiter = threading.Thread(target=lambda: answers.append(running.result()))
    waiter.start()
    assert puppet.entered.acquire(timeout=30)
    assert answers == []
    puppet.proceed.release()
    waiter.join()
    assert len(answers) == 1


def test_a_puppet_fails_when_it_is_told_to() -> None:
    puppet = PuppetExecutable()
    running = puppet.launch(NO_WEIGHTS, rows(1))
    puppet.fail_result = ValueError("result")
    with pytest.raises(ValueError, match="result"):
        running.result()
    puppet.fail_launch = ValueError("launch")
    with pytest.raises(ValueError, match="launch"):
        puppet.launch(NO_WEIGHTS, rows(2))
    assert len(puppet.launched) == 1


def test_a_compiler_gives_out_one_puppet_a_bucket_and_can_hold_them_all() -> None:
    compiler = PuppetCompiler()
    assert compiler(puppet_model()) is compiler
    small, large = (compiler.compile(Bucket(size)) for size in (1, 2))
    assert compiler.executables == {Bucket(1): small, Bucket(2): large}
    compiler.hold()
    assert small.held
    assert large.held
    compiler.free()
    assert not small.held
    assert not large.held


def test_a_compiler_is_held_and_freed_while_an_engine_compiles() -> None:
    compiler = PuppetCompiler()
    compiling = threading.Thread(
        target=lambda: [compiler.compile(Bucket(size)) for size in range(1, 3000)]
    )
    compiling.start()
    while compiling.is_alive():
        compiler.hold()
        compiler.free()
    assert len(compiler.made()) == 2999


def test_a_compiler_waits_at_its_gate_and_fails_when_it_is_told_to() -> None:
    compiler = PuppetCompiler()
    compiler.gate = threading.Semaphore(1)
    compiler.compile(Bucket(1))
    assert not compiler.gate.acquire(blocking=False)
    compiler.gate.release()
    compiler.fail = ValueError("no compiler")
    with pytest.raises(ValueError, match="no compiler"):
        compiler.compile(Bucket(2))


def test_a_recording_waits_for_events_and_reports_those_it_has_instead() -> None:
    observer = RecordingObserver()
    teller = threading.Thread(target=lambda: [observer.queued("m", 1) for _ in range(2)])
    teller.start()
    assert observer.wait_for("queued", 2) == [("m",), ("m",)]
    teller.join()
    assert observer.named("refused") == []
    with pytest.raises(AssertionError, match=r"no 1 x 'refused' .*\('queued', 'm'\)"):
        observer.wait_for("refused", timeout_s=0)


def test_a_puppets_config_can_be_changed() -> None:
    assert puppet_config().rows == (1, 2, 4)
    assert puppet_config(name="other").name == "other"


def test_texts_are_bytes_one_row_each() -> None:
    assert texts("é", b"\xff")["text"].tolist() == ["é".encode(), b"\xff"]
    assert texts("a").keys() == {"text"}
