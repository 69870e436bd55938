"""Reports every compilation that happens outside of start-up. After READY there must be none."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from jax import monitoring

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
_this_thread = threading.local()


class _Alarms:
    """The callbacks of one process. JAX's listener can be added but not removed, so it is one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []
        self._listening = False

    def add(self, callback: Callable[[], None]) -> None:
        with self._lock:
            self._callbacks.append(callback)
            if not self._listening:
                monitoring.register_event_duration_secs_listener(self._on_event)
                self._listening = True

    def remove(self, callback: Callable[[], None]) -> None:
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

    def _on_event(self, event: str, *_duration: Any, **_labels: Any) -> None:
        if event != _COMPILE_EVENT or getattr(_this_thread, "compiles", False):
            return
        with self._lock:
            callbacks = tuple(self._callbacks)
        for callback in callbacks:
            callback()


_alarms = _Alarms()


@contextmanager
def expected_compiles() -> Iterator[None]:
    """Compilations of this thread inside the block are part of start-up."""
    before = getattr(_this_thread, "compiles", False)
    _this_thread.compiles = True
    try:
        yield
    finally:
        _this_thread.compiles = before


def watch_compiles(alarm: Callable[[], None]) -> Callable[[], None]:
    """Call `alarm` for every compilation outside of `expected_compiles`, in any thread.

    Returns a function that ends the watch.
    """
    _alarms.add(alarm)
    return lambda: _alarms.remove(alarm)
