"""When outcomes are taken, and by which thread."""

from __future__ import annotations

import logging
import os
import select
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from engine.errors import TooManyWaiting
from engine.transport.client.link import Link

log = logging.getLogger("brim.engine")


class Wakeups:
    """One descriptor that can be read when the link's eventfd can, whichever link there is.

    `hosted`: an event loop watches it. Otherwise a thread does, from the first request on.
    """

    def __init__(self, take: Callable[[], object]) -> None:
        """`take()` takes the outcomes that are there."""
        self._take = take
        self._epoll = select.epoll()
        self._stop = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self.hosted = False

    @property
    def fd(self) -> int:
        """An epoll instance can be watched by another one."""
        return self._epoll.fileno()

    def add(self, event: int) -> None:
        """A link has opened."""
        self._epoll.register(event, select.EPOLLIN)

    def remove(self, event: int) -> None:
        """A link is lost. Call it before its eventfd is closed: the engine may have it open."""
        with suppress(FileNotFoundError):  # the system refused to watch it
            self._epoll.unregister(event)

    def ensure(self) -> None:
        """Start the thread if it is needed. Raises `TooManyWaiting` if the system has no
        thread for it; the next request tries again.
        """
        if self.hosted or self._thread is not None:
            return
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="brim-outcomes", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:
                    raise TooManyWaiting(f"no thread for outcomes: {error}", 1.0) from error
                self._epoll.register(self._stop, select.EPOLLIN)
                self._thread = thread

    def _run(self) -> None:
        while True:
            if any(fd == self._stop for fd, _ in self._epoll.poll()):
                return
            try:
                self._take()
            except Exception:  # a listener's error; without this thread no outcome would arrive
                log.exception("a listener failed")

    def close(self) -> None:
        """End the thread. Idempotent, also for several threads at once: a process group's SIGTERM
        reaches a worker twice.
        """
        with self._lock:
            closed, self._closed = self._closed, True
        if closed:
            return
        if self._thread is not None:
            os.eventfd_write(self._stop, 1)
            self._thread.join()
        os.close(self._stop)
        self._epoll.close()


class Coalescing:
    """The context manager of `coalesce`."""

    __slots__ = ("_link",)

    def __init__(self, link: Link | None) -> None:
        self._link = link

    def __enter__(self) -> None:
        if self._link is not None:
            self._link.coalesce()

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if self._link is not None:
            self._link.stop_coalescing()
