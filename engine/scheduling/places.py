"""How much of the queue a request takes: the places of its first rows, and never the whole queue.

A waiting row takes a place. One request takes a sixteenth of all places at most: its other rows are
*held* where they are, and take the places that its earlier rows leave. Such *divided* requests take
half of all places together at most. So a request of any size is admitted beside others, and a small
one finds room beside any number of large ones.
"""

from __future__ import annotations

from typing import Final

SHARE: Final = 16
"""One request takes one of so many parts of the places."""

UNLIMITED: Final = 10**9


class Places:
    """The places of one queue, `rows` in all. `held` are the rows that wait without a place,
    `divided` the queued requests that are so large that they have or had such rows.
    """

    def __init__(self, rows: int = UNLIMITED) -> None:
        self.rows = rows
        self.part = -(-rows // SHARE)
        self._most_divided = max(1, rows // 2 // self.part)
        self.held = 0
        self.divided = 0

    def fit(self, rows: int, taken: int, divided: int) -> bool:
        """Whether a request of so many rows has room, where so many places are taken, and so many
        divided requests are queued.
        """
        if rows <= self.part:
            return taken + rows <= self.rows
        return divided < self._most_divided and taken + self.part <= self.rows

    def enter(self, rows: int) -> None:
        """A request of so many rows is queued."""
        if rows > self.part:
            self.divided += 1
            self.held += rows - self.part

    def take(self, left: int, count: int) -> None:
        """`count` of the `left` rows of a divided request leave the queue."""
        self.held -= max(0, left - self.part) - max(0, left - count - self.part)
        if left == count:
            self.divided -= 1
