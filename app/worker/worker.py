"""The gunicorn worker: its life, its signals, its heartbeat.

It supports what gunicorn's other workers do: configuration, hooks, limits, access log, signals,
`max_requests`, `timeout`, graceful shutdown. HTTP is version 1.1 and 1.0.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from types import FrameType
from typing import Any, Final

from gunicorn import sock as gunicorn_sock
from gunicorn.workers.base import Worker
from typing_extensions import override

from app.worker.connection import Connection
from app.worker.loop import Loop
from app.worker.pool import Pool
from app.worker.protocol.head_cache import HeadCache
from app.worker.suspension import Pending

LONGEST_BODY: Final = 16 * 1024 * 1024
"""Bytes of a body, where the application has no limit of its own."""

HEARTBEAT_S: Final = 1.0
LINGER_S: Final = 2.0
"""Seconds for which a stopping worker keeps its idle connections, for a request that is on its way;
the same as gthread's."""

ACCEPTS_IN_A_ROW: Final = 64
_TRANSIENT: Final = (errno.EAGAIN, errno.ECONNABORTED)
_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def _never_inline(_environ: Mapping[str, Any]) -> bool:
    return False


class Listeners:
    """The sockets that accept connections, watched while more are wanted."""

    def __init__(self, worker: BrimWorker) -> None:
        """`worker` has been opened."""
        self._worker, self._loop = worker, worker.loop
        self._watched = False
        self.exhausted = False  # of file descriptors or memory: set until the next heartbeat

    def watch(self, wanted: bool) -> None:
        """Accept connections from now on, or stop it."""
        wanted = wanted and not self.exhausted
        if wanted == self._watched:
            return
        self._watched = wanted
        for listener in self._worker.sockets:
            if wanted:
                listener.setblocking(False)
                accept = partial(self._accept, listener, listener.getsockname())
                self._loop.watch(listener.fileno(), select.EPOLLIN, accept)
            else:
                self._loop.forget(listener.fileno())

    def _accept(self, listener: Any, server: Any, _events: int) -> None:
        for _ in range(ACCEPTS_IN_A_ROW):
            if not self._worker.free:
                return
            try:
                client, address = listener.accept()
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._worker.log.warning("no more connections for a moment: %s", error)
                    self.exhausted = True
                elif error.errno not in _TRANSIENT:
                    raise
                return
            self._worker.connect(client, address, server)


class BrimWorker(Worker):  # type: ignore[misc]
    """Serves all connections from one thread; what may block runs in a pool of `threads`.

    An application may have these attributes. `inline(environ)` returns whether the request may run
    on that one thread. `tick()` returns a context manager, entered around the events of one poll.
    Flask's `config["MAX_CONTENT_LENGTH"]` limits bodies: a longer one is not read, and the
    connection is closed after the answer.
    """

    @classmethod
    @override
    def check_config(cls, cfg: Any, _log: Any) -> None:
        if cfg.protocol != "http" or "h2" in cfg.http_protocols:
            raise RuntimeError("the brim worker speaks HTTP/1.1 only; use gthread")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.connections: set[Connection] = set()
        self.suspended: dict[Pending, Callable[[], object]] = {}
        self.inline: Callable[[Mapping[str, Any]], bool] = _never_inline
        self.longest_body = LONGEST_BODY
        self._tls: ssl.SSLContext | None = None
        self._beat_at = 0.0

    @override
    def init_process(self) -> None:
        self.open()
        super().init_process()

    def open(self) -> None:
        """Create what a forked process must not share with its parent."""
        # gunicorn looks up settings 22 times a request, which takes 12 us; attributes of the
        # instance are found first. Nothing changes them after the fork
        self.cfg.__dict__.update(
            {name: setting.get() for name, setting in self.cfg.settings.items()}
        )
        self.loop = Loop()
        self.pool = Pool(self.cfg.threads)
        self.listeners = Listeners(self)
        self.head_cache = HeadCache(self.cfg)
        if self.cfg.is_ssl:
            self._tls = gunicorn_sock.ssl_context(self.cfg)

    @override
    def load_wsgi(self) -> None:
        super().load_wsgi()
        self.read_options(self.wsgi)

    def read_options(self, app: Any) -> None:
        """Read the attributes of the application that are meant for the worker."""
        self.inline = getattr(app, "inline", _never_inline)
        self.loop.tick = getattr(app, "tick", nullcontext)
        config = getattr(app, "config", {})
        self.longest_body = config.get("MAX_CONTENT_LENGTH") or LONGEST_BODY

    @override
    def run(self) -> None:
        self.loop.watch(self.PIPE[0], select.EPOLLIN, self._signalled)
        while self.alive and self.ppid == os.getppid():
            self.listeners.watch(self.free)
            self._run_once()
        self._drain()
        for connection in list(self.connections):
            connection.close()
        self.pool.close()
        self.loop.close()
        for listener in self.sockets:
            listener.close()

    def _drain(self) -> None:
        """Accept no more connections; answer the open ones for at most `graceful_timeout`."""
        self.alive = False
        self.listeners.watch(False)
        for connection in list(self.connections):
            connection.drain(LINGER_S)
        give_up_at = self.loop.clock() + self.cfg.graceful_timeout
        while self.connections and self.loop.clock() < give_up_at:
            self._run_once()

    def _run_once(self) -> None:
        now = self.loop.clock()
        if now >= self._beat_at:
            self._beat_at = now + HEARTBEAT_S
            self.listeners.exhausted = False
            self.notify()
        self.loop.run_once(HEARTBEAT_S)

    def _signalled(self, _events: int) -> None:
        """Empty the pipe. The signal's handler has run; the pipe only ends the loop's wait."""
        try:
            os.read(self.PIPE[0], 4096)
        except BlockingIOError:
            self.log.debug("woken without a signal")

    @override
    def handle_usr1(self, number: int, frame: FrameType | None) -> None:
        super().handle_usr1(number, frame)
        # not here: a signal's handler interrupts other code
        self.loop.call_soon((self.head_cache.clear,))

    @property
    def free(self) -> bool:
        """Whether one more connection may be accepted."""
        return len(self.connections) < int(self.cfg.worker_connections)

    def connect(self, client: socket.socket, address: Any, server: Any) -> None:
        """Serve a client at `address` that connected to `server`."""
        client.setblocking(False)
        if self._tls is not None:
            try:
                client = self._tls.wrap_socket(
                    client,
                    server_side=True,
                    do_handshake_on_connect=False,
                    suppress_ragged_eofs=self.cfg.suppress_ragged_eofs,
                )
            except OSError as error:  # it has closed already
                self.log.debug("TLS cannot begin: %s", error)
                client.close()
                return
        self.connections.add(Connection(self, client, address, server))

    def closed(self, connection: Connection) -> None:
        """The connection has closed."""
        self.connections.discard(connection)

    @property
    def keepalive_s(self) -> float:
        """Seconds for which a client may be idle between two requests."""
        keepalive: float = self.cfg.keepalive
        return keepalive if self.alive else min(keepalive, LINGER_S)

    def count_request(self) -> bool:
        """Count one more request. Returns whether to close its connection after it."""
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False
        return not self.alive or not self.cfg.keepalive

    def results_ready(self, results: Sequence[Pending]) -> None:
        """Resume the connections of these results. Called on another thread, once per batch."""
        calls = (self.suspended.pop(result, None) for result in results)
        self.loop.call_soon([call for call in calls if call is not None])
