"""Why the worker refuses a request, or ends it, without the application's answer."""

from __future__ import annotations

import enum
from typing import NamedTuple


class Reason(enum.Enum):
    """Why."""

    LATE = "the calls that wait take longer than its deadline allows"
    FULL = "as many calls wait as may"
    STUCK = "all threads are in calls that have passed their deadlines"
    NO_THREAD = "the system starts no thread"
    EXPIRED = "its deadline has passed"


class Refusal(NamedTuple):
    """`retry_after_s`: when another try makes sense. `waiting` calls wait in the lane."""

    reason: Reason
    retry_after_s: float
    lane: str
    waiting: int
