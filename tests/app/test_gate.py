"""The gate: a bounded number of requests waits, and probes always find a thread."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from app.errors import TooManyWaiting
from app.gate import Gate


def test_so_many_are_let_in_and_no_more() -> None:
    gate = Gate(3)
    with ExitStack() as waiting:
        for _ in range(3):
            waiting.enter_context(gate.admit())
        with pytest.raises(TooManyWaiting) as refused, gate.admit():
            pytest.fail("one too many was let in")
    assert str(refused.value) == "3 requests wait in this process already"
    assert refused.value.retry_after_s == 1.0


def test_a_place_is_free_again_however_its_request_ended() -> None:
    gate = Gate(1)
    with pytest.raises(ZeroDivisionError), gate.admit():
        raise ZeroDivisionError
    with gate.admit():
        pass
    with gate.admit():
        pass


def test_who_was_refused_does_not_free_the_place_of_another() -> None:
    gate = Gate(1)
    with gate.admit():
        for _ in range(2):
            with pytest.raises(TooManyWaiting), gate.admit():
                pytest.fail("the refused one gave back a place that was not its own")


def test_a_place_that_is_kept_is_left_once_however_often_that_is_said() -> None:
    gate = Gate(1)
    with gate.admit() as place:
        place.keep()
    with pytest.raises(TooManyWaiting):
        gate.admit()
    place.leave()
    place.leave()
    gate.admit()
    with pytest.raises(TooManyWaiting):
        gate.admit()
