"""How connections spread over workers that accept from the same sockets.

The system wakes every worker that waits, or the one that waited last: without a rule the quickest
worker gets most connections, and keep-alive keeps them there. The rule: a worker that has more than
the one with the fewest, and some, lets the others accept first, for a moment.
"""

from __future__ import annotations

from collections.abc import MutableSequence
from typing import Final

UNUSED: Final = 2**32 - 1
"""The count of a slot without a worker."""

SLACK: Final = 2
SLACK_SHARE: Final = 16
"""A worker may have `SLACK` connections more than the fewest, and one more for so many of them."""


class Balance:
    """One worker's place among the others: `counts` is shared, and `slot` is its own."""

    def __init__(self, counts: MutableSequence[int] | None = None, slot: int = 0) -> None:
        """Without `counts` there are no other workers."""
        self._counts = [0] if counts is None else counts
        self._slot = slot

    def set(self, connections: int) -> None:
        """Tell the others how many connections this worker has."""
        self._counts[self._slot] = connections

    def leave(self) -> None:
        """Accept no more: the others do not wait for this worker."""
        self._counts[self._slot] = UNUSED

    @property
    def may_accept(self) -> bool:
        """Whether this worker should accept, and not let others do it."""
        fewest = min(self._counts)
        return self._counts[self._slot] <= fewest + SLACK + fewest // SLACK_SHARE
