"""The limit on requests in flight, which keeps threads free for probes."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from app.http.services import ConcurrencyLimiter
from engine.errors import TooManyWaiting


def test_no_more_than_the_limit_are_admitted() -> None:
    limiter = ConcurrencyLimiter(3)
    with ExitStack() as waiting:
        for _ in range(3):
            waiting.enter_context(limiter.acquire())
        with pytest.raises(TooManyWaiting) as refused, limiter.acquire():
            pytest.fail("one request too many was admitted")
    assert str(refused.value) == "3 requests wait in this process already"
    assert refused.value.retry_after_s == 1.0


def test_a_permit_is_released_however_its_request_ends() -> None:
    limiter = ConcurrencyLimiter(1)
    with pytest.raises(ZeroDivisionError), limiter.acquire():
        raise ZeroDivisionError
    with limiter.acquire():
        pass
    with limiter.acquire():
        pass


def test_a_refused_request_does_not_release_the_permit_of_another() -> None:
    limiter = ConcurrencyLimiter(1)
    with limiter.acquire():
        for _ in range(2):
            with pytest.raises(TooManyWaiting), limiter.acquire():
                pytest.fail("a refused request released a permit")


def test_a_detached_permit_is_released_once() -> None:
    limiter = ConcurrencyLimiter(1)
    with limiter.acquire() as permit:
        permit.detach()
    with pytest.raises(TooManyWaiting):
        limiter.acquire()
    permit.release()
    permit.release()
    limiter.acquire()
    with pytest.raises(TooManyWaiting):
        limiter.acquire()
