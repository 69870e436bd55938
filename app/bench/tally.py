"""What became of every request, kept so cheaply that keeping it does not show. No clock of its own.

A request counts when it was *intended* inside the window: what warm-up sent does not, and what is
answered after the end does. 20 bytes a request; everything else is made of them after the run.
"""

from __future__ import annotations

from array import array
from enum import IntEnum
from typing import Final

BASE: Final = 1000
"""A sample's code is the number of its shot times this, and its outcome."""

FIRST_STATUS: Final = 100
"""HTTP has none below it; there are the failures."""


class Failure(IntEnum):
    """How a request ends without an answer."""

    REFUSED = 1  # nobody listens
    UNREACHABLE = 2  # no connection, for another reason
    RESET = 3  # the connection broke
    CLOSED = 4  # the connection was closed before the whole answer was there
    GARBAGE = 5  # the answer is not HTTP
    UNANSWERED = 6  # sent, and given up on
    UNSENT = 7  # no connection was free before it was given up on


class Tally:
    """Appended to by the load, read when it is over. Times are on the load's clock, in seconds.

    `settled` and `failed` count everything, warm-up too: they are for the progress bar.
    """

    def __init__(self, begin: float, end: float) -> None:
        self.begin = begin
        self.end = end
        self.latencies = array("d")
        self.finished = array("d")
        self.codes = array("i")
        self.lags = array("d")
        self.settled = 0
        self.failed = 0

    def ended(self, shot: int, outcome: int, intended: float, now: float) -> None:
        """A request has its outcome: a status, or a `Failure`."""
        self.settled += 1
        if not 200 <= outcome < 300:  # noqa: PLR2004  # what HTTP calls success
            self.failed += 1
        if self.begin <= intended < self.end:
            self.latencies.append(now - intended)
            self.finished.append(now)
            self.codes.append(shot * BASE + outcome)

    def late(self, due: float, now: float) -> None:
        """The load itself came to something at `now` that it had wanted to do at `due`."""
        if self.begin <= due < self.end:
            self.lags.append(now - due)
