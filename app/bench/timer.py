"""One alarm that is on time.

May touch: asyncio, os, and the C library through ctypes.

The timers of event loops count in milliseconds, like epoll's timeout: whoever wants more waits too
long, which an open loop would add to every latency, or wakes early and spins. Linux has a clock
that can be waited for like a socket; Python has it from 3.13 on. Elsewhere the loop's has to do.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
import sys
import time
from collections.abc import Callable
from typing import Final

_MONOTONIC: Final = 1
_ABSOLUTE: Final = 1
_ITIMERSPEC: Final = struct.Struct("@qqqq")  # interval and time, each in seconds and nanoseconds


class Timer:
    """Calls `ring` once for every `at`, not before that time of `time.monotonic()`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._handle: asyncio.TimerHandle | None = None
        self._file: int | None = None
        if sys.platform == "linux":
            self._library = ctypes.CDLL(None)
            file = self._library.timerfd_create(_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
            loop.add_reader(file, self._expired, file)
            self._file = file

    def _expired(self, file: int) -> None:
        os.read(file, 8)
        self._ring()

    def at(self, when: float) -> None:
        """Ring at `when`, in seconds; what was set before is forgotten."""
        if self._file is not None:
            seconds, fraction = divmod(max(when, 0.0), 1)
            spec = _ITIMERSPEC.pack(0, 0, int(seconds), int(fraction * 1e9) + 1)  # 0 would unset it
            self._library.timerfd_settime(self._file, _ABSOLUTE, spec, None)
            return
        if self._handle is not None:
            self._handle.cancel()
        delay = max(0.0, when - time.monotonic())
        self._handle = self._loop.call_later(delay, self._ring)

    def close(self) -> None:
        """It does not ring any more."""
        if self._handle is not None:
            self._handle.cancel()
        if self._file is not None:
            self._loop.remove_reader(self._file)
            os.close(self._file)
