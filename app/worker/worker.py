"""A gunicorn worker: its life, its signals, its heartbeat.

May touch: gunicorn, listening sockets.

Everything that gunicorn's other workers promise holds: configuration, hooks, limits, access log,
signals, `max_requests`, `timeout`, graceful shutdown. HTTP is version 1.1 and 1.0.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, Final

from gunicorn import sock as gunicorn_sock
from gunicorn.workers.base import Worker

from app.worker.connection import Connection
from app.worker.heads import Heads
from app.worker.loop import Loop, alone
from app.worker.pool import Pool
from engine.ticket import Ticket

LONGEST_BODY: Final = 16 * 1024 * 1024
"""Bytes that are read before the application is called, where it does not say what it takes."""

HEARTBEAT_S: Final = 1.0
LINGER_S: Final = 2.0
"""Seconds for which a stopping worker keeps its idle connections, for a request that is on its way;
the same as gthread's."""

ACCEPTS_IN_A_ROW: Final = 64
_TRANSIENT: Final = (errno.EAGAIN, errno.ECONNABORTED)
_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def _nothing_is_quick(_environ: Mapping[str, Any]) -> bool:
    return False


class BrimWorker(Worker):  # type: ignore[misc]
    """Serves all connections from one thread; what may block runs in a pool of `threads`.

    An application may have an attribute `quick`, which is asked whether a request, given as WSGI's
    environ, may run on that one thread; `turn`, a context manager to be entered with the number of
    sockets at which something has happened, around what is done about it; and Flask's
    `MAX_CONTENT_LENGTH`: a longer body is not read, and the connection closed after the answer.
    """

    @classmethod
    def check_config(cls, cfg: Any, _log: Any) -> None:
        """Refuse, before anything starts, what this worker does not speak."""
        if cfg.protocol != "http" or "h2" in cfg.http_protocols:
            raise RuntimeError("the brim worker speaks HTTP/1.1 only; use gthread")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.connections: set[Connection] = set()
        self.parked: dict[Ticket, Callable[[], object]] = {}
        self.quick: Callable[[Mapping[str, Any]], bool] = _nothing_is_quick
        self.longest_body = LONGEST_BODY
        self._tls: ssl.SSLContext | None = None
        self._listening = False
        self._exhausted = False
        self._beat_at = 0.0

    # --- gunicorn's interface --------------------------------------------------------------------

    def init_process(self) -> None:
        """In the worker's process, before the application is loaded; returns when all is over."""
        self.open()
        super().init_process()

    def open(self) -> None:
        """Make what must not be shared with the process that this one was forked from."""
        # gunicorn looks settings up in a table: 22 times a request, which is 12 us; here it finds
        # them where Python looks first. Nothing sets them after the fork
        self.cfg.__dict__.update(
            {name: setting.get() for name, setting in self.cfg.settings.items()}
        )
        self.loop = Loop()
        self.pool = Pool(self.cfg.threads)
        self.heads = Heads(self.cfg)
        if self.cfg.is_ssl:
            self._tls = gunicorn_sock.ssl_context(self.cfg)

    def load_wsgi(self) -> None:
        """Load the application that the configuration names."""
        super().load_wsgi()
        self.host(self.wsgi)

    def host(self, app: Any) -> None:
        """Serve this application, and ask it what it says of itself."""
        self.wsgi = app
        self.quick = getattr(app, "quick", _nothing_is_quick)
        self.loop.turn = getattr(app, "turn", alone)
        config = getattr(app, "config", {})
        self.longest_body = config.get("MAX_CONTENT_LENGTH") or LONGEST_BODY

    def run(self) -> None:
        """Serve until a signal, `max_requests` or an orphaned process ends it; then drain."""
        self.loop.watch(self.PIPE[0], select.EPOLLIN, self._signalled)
        while self.alive and self.ppid == os.getppid():
            self._listen(len(self.connections) < self.cfg.worker_connections)
            self._turn()
        self._drain()
        for connection in list(self.connections):
            connection.close()
        self.pool.close()
        self.loop.close()
        for listener in self.sockets:
            listener.close()

    def _drain(self) -> None:
        """Take no more connections, answer what is there, for `graceful_timeout` at most."""
        self.alive = False
        self._listen(False)
        for connection in list(self.connections):
            connection.drain(LINGER_S)
        give_up_at = self.loop.clock() + self.cfg.graceful_timeout
        while self.connections and self.loop.clock() < give_up_at:
            self._turn()

    def _turn(self) -> None:
        now = self.loop.clock()
        if now >= self._beat_at:
            self._beat_at = now + HEARTBEAT_S
            self._exhausted = False
            self.notify()
        self.loop.run_once(HEARTBEAT_S)

    def _signalled(self, _events: int) -> None:
        """A signal's handler has run; this only ends the wait."""
        try:
            os.read(self.PIPE[0], 4096)
        except BlockingIOError:
            self.log.debug("woken by nobody")

    def handle_usr1(self, number: int, frame: FrameType | None) -> None:
        """Open the log files anew. On a signal: the loop may be in the middle of anything."""
        super().handle_usr1(number, frame)
        self.loop.call_soon((self.heads.forget,))

    # --- connections -----------------------------------------------------------------------------

    def _listen(self, wanted: bool) -> None:
        wanted = wanted and not self._exhausted
        if wanted == self._listening:
            return
        self._listening = wanted
        for listener in self.sockets:
            if wanted:
                listener.setblocking(False)
                server = listener.getsockname()
                self.loop.watch(listener.fileno(), select.EPOLLIN, self._acceptor(listener, server))
            else:
                self.loop.forget(listener.fileno())

    def _acceptor(self, listener: Any, server: Any) -> Callable[[int], None]:
        def accept(_events: int) -> None:
            for _ in range(ACCEPTS_IN_A_ROW):
                if len(self.connections) >= self.cfg.worker_connections:
                    return
                try:
                    client, address = listener.accept()
                except OSError as error:
                    if error.errno in _EXHAUSTED:
                        self.log.warning("no more connections for a moment: %s", error)
                        self._exhausted = True
                    elif error.errno not in _TRANSIENT:
                        raise
                    return
                self.connect(client, address, server)

        return accept

    def connect(self, client: socket.socket, address: Any, server: Any) -> None:
        """Serve a client at `address` who came to `server`, one of ours."""
        client.setblocking(False)
        if self._tls is not None:
            try:
                client = self._tls.wrap_socket(
                    client,
                    server_side=True,
                    do_handshake_on_connect=False,
                    suppress_ragged_eofs=self.cfg.suppress_ragged_eofs,
                )
            except OSError as error:  # it has left already
                self.log.debug("TLS cannot begin: %s", error)
                client.close()
                return
        self.connections.add(Connection(self, client, address, server))

    def closed(self, connection: Connection) -> None:
        """One connection less."""
        self.connections.discard(connection)

    # --- what connections ask for ----------------------------------------------------------------

    @property
    def keepalive_s(self) -> float:
        """For how many seconds a client may be idle between two requests."""
        keepalive: float = self.cfg.keepalive
        return keepalive if self.alive else min(keepalive, LINGER_S)

    def count_request(self) -> bool:
        """One more request; is its connection to be closed after it?"""
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False
        return not self.alive or not self.cfg.keepalive

    def tickets_done(self, tickets: list[Ticket]) -> None:
        """An engine's thread says so; the loop is woken once for all of them."""
        calls = (self.parked.pop(ticket, None) for ticket in tickets)
        self.loop.call_soon([call for call in calls if call is not None])
