"""Questions to the engine that a thread waits for."""

from __future__ import annotations

import threading
import time
from typing import Final

from engine.errors import EngineLost
from engine.transport.client.link import LOST, Link
from engine.transport.protocol.messages import Answer, Ask

ANSWER_S: Final = 2.0
"""Seconds to wait for an answer. An engine that takes longer is stopped or stuck."""


class Asks:
    """Any thread may `ask`. The thread that receives messages calls `answer` and `lose`."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._number = 0
        self._answers: dict[int, Answer | None] = {}

    def ask(self, link: Link) -> bytes:
        """The content of the answer. Raises `EngineLost` if there is none in time."""
        with self._changed:
            self._number += 1
            number = self._number
            self._answers[number] = None
        try:
            link.messages.send(Ask(number))
            return self._wait(number).content
        except OSError as error:
            raise EngineLost(f"{LOST}: {error}", 1.0) from None
        finally:
            with self._changed:
                self._answers.pop(number, None)

    def _wait(self, number: int) -> Answer:
        give_up_at = time.monotonic() + ANSWER_S
        with self._changed:
            while number in self._answers:
                answer = self._answers[number]
                if answer is not None:
                    return answer
                if not self._changed.wait(give_up_at - time.monotonic()):
                    raise EngineLost(f"the engine has not answered within {ANSWER_S:g} s", 1.0)
        raise EngineLost(LOST, 1.0)

    def answer(self, answer: Answer) -> None:
        """An answer has come."""
        with self._changed:
            if answer.number in self._answers:
                self._answers[answer.number] = answer
            self._changed.notify_all()

    def lose(self) -> None:
        """The engine is gone."""
        with self._changed:
            self._answers.clear()
            self._changed.notify_all()
