"""Errors become numbers and text, and the same errors again."""

from __future__ import annotations

import pytest

from engine import errors
from engine.errors import BrimError, InvalidRequest, Refused
from engine.transport.protocol.memory import MIN_ORDER
from engine.transport.protocol.outcomes import (
    ERRORS,
    error_number,
    error_of,
    error_text,
    retry_after_s,
)


def example(kind: type[BrimError]) -> BrimError:
    if issubclass(kind, InvalidRequest):
        return kind("inputs.x", "got 1: expected 2")
    return kind("what happened", 2.5) if issubclass(kind, Refused) else kind("what happened")


def sent(error: BrimError, capacity: int = 1 << MIN_ORDER) -> BrimError:
    text = error_text(error, capacity).decode()
    return error_of(error_number(error), text, retry_after_s(error))


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_comes_back_as_it_was(kind: type[BrimError]) -> None:
    error = example(kind)
    back = sent(error)
    assert type(back) is kind
    assert str(back) == str(error)
    assert vars(back) == vars(error)


def test_a_subclass_comes_back_as_its_nearest_base() -> None:
    class TooLoud(InvalidRequest):
        """A model's own error."""

    back = sent(TooLoud("audio", "too loud"))
    assert (type(back), str(back)) == (InvalidRequest, "audio: too loud")
    assert type(sent(BrimError("of no kind that is known"))) is errors.ExecutionFailed


def test_every_error_that_can_end_a_request_is_in_the_table() -> None:
    never_an_outcome = {
        errors.ConfigError,
        errors.LoadError,
        errors.WarmupError,
        errors.UnknownModel,
        errors.UnknownVersion,
        errors.Refused,
    }
    every = {one for one in vars(errors).values() if isinstance(one, type)}
    assert every - set(ERRORS) - never_an_outcome == {BrimError}


@pytest.mark.parametrize("letter", ["a", "ü", "€", "\U0001f600"])
def test_a_long_message_is_cut_between_two_letters(letter: str) -> None:
    text = error_text(errors.ExecutionFailed(letter * 1000), 512)
    assert len(text) <= 512
    assert text.decode().lstrip(letter) == "…"
    assert len(text) > 500


def test_a_message_that_is_no_unicode_can_be_sent() -> None:
    assert str(sent(errors.ExecutionFailed("\ud800 alone"))) == "? alone"
