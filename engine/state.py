"""The life of a model, as a line that is only walked forward.

May touch: nothing.
"""

from __future__ import annotations

from enum import Enum


class ModelState(Enum):
    """`LOADING -> COMPILING -> WARMING -> READY -> DRAINING -> CLOSED`, or `FAILED` from any."""

    LOADING = "loading"
    COMPILING = "compiling"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    CLOSED = "closed"
    FAILED = "failed"

    def may_become(self, other: ModelState) -> bool:
        """Forward only; FAILED can be reached from anywhere alive and left only by CLOSED."""
        if self is ModelState.CLOSED:
            return False
        if self is ModelState.FAILED:
            return other is ModelState.CLOSED
        if other is ModelState.FAILED:
            return True
        order = list(ModelState)
        return order.index(other) > order.index(self)

    @property
    def settled(self) -> bool:
        """Nothing more will happen by itself: start-up is over, well or badly."""
        return self not in (ModelState.LOADING, ModelState.COMPILING, ModelState.WARMING)
