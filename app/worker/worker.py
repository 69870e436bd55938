"""The gunicorn worker: its life, its signals, its heartbeat.

It supports what gunicorn's other workers do: configuration, hooks, limits, access log, signals,
`max_requests`, `timeout`, graceful shutdown. HTTP is version 1.1 and 1.0.
"""

from __future__ import annotations

import errno
import heapq
import math
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
from typing_extensions import override

from app.worker.balance import Balance
from app.worker.calls.pool import OWN, Pool
from app.worker.calls.refusal import Refusal
from app.worker.connection import Connection
from app.worker.limits.bounds import Bounds
from app.worker.limits.states import State
from app.worker.loop import Loop
from app.worker.protocol.cycle import App
from app.worker.protocol.head_cache import HeadCache
from app.worker.protocol.refusals import RefusingWorker
from app.worker.suspension import Pending, Place
from app.worker.transport import asks_to_read

HEARTBEAT_S: Final = 1.0
LINGER_S: Final = 2.0
"""Seconds for which a stopping worker keeps its idle connections, for a request that is on its way;
the same as gthread's."""

ACCEPTS_IN_A_ROW: Final = 64
OTHERS_FIRST_S: Final = 0.001
"""Seconds that other workers have to accept a connection first."""
ROOM: Final = 16
"""Connections that are closed when there are no file descriptors left, or no free places."""
LOOK_EVERY_S: Final = 0.1
"""Seconds until such are looked for again where there were none: it takes milliseconds."""
PATIENT_S: Final = 2.0
"""Seconds for which a connection without a whole request is left alone then."""
_TRANSIENT: Final = (errno.EAGAIN, errno.ECONNABORTED)
_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


EVERYWHERE: Final = Place("requests")
"""Where requests run whose application does not say it."""


def _place(_environ: Mapping[str, Any]) -> Place:
    return EVERYWHERE


def _refuse_call(
    _environ: Mapping[str, Any], start_response: Callable[..., Any], refusal: Refusal
) -> list[bytes]:
    body = f"no room for this request: {refusal.reason.value}\n".encode()
    retry_after = str(max(1, math.ceil(refusal.retry_after_s)))
    start_response(
        "503 Service Unavailable", [("Content-Type", "text/plain"), ("Retry-After", retry_after)]
    )
    return [body]


class Listeners:
    """The sockets that accept connections, watched while more are wanted."""

    def __init__(self, worker: BrimWorker) -> None:
        """`worker` has been opened."""
        self._worker, self._loop = worker, worker.loop
        # a hook that forks several workers may set these two
        counts, slot = getattr(worker, "connection_counts", None), getattr(worker, "slot", 0)
        self.balance = Balance(counts, slot)
        self._watched = False
        self._waits = False  # until the alarm, for others to accept
        self._in_turn = False  # after the alarm: accept one, whatever the others have
        self.exhausted = False  # of file descriptors or memory: set until the next heartbeat
        self._look_at = -math.inf  # when to look for a place for another connection
        self.scheduled_at = self.wakes_at = math.inf

    def on_alarm(self) -> None:
        """The others have had their moment."""
        self._waits, self._in_turn = False, True
        self.watch(self._worker.alive and self._worker.free)

    def watch(self, wanted: bool) -> None:
        """Accept connections from now on, or stop it."""
        wanted = wanted and not self.exhausted and not self._waits
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

    def find_place(self) -> None:
        """All connections that there may be are open: let others take the place of idle ones."""
        now = self._loop.clock()
        if now >= self._look_at and not self._worker.make_room():
            self._look_at = now + LOOK_EVERY_S

    def _accept(self, listener: Any, server: Any, _events: int) -> None:
        worker = self._worker
        for _ in range(ACCEPTS_IN_A_ROW):
            if not worker.free:
                return
            if not (self._in_turn or self.balance.may_accept):
                self._waits = True
                self._loop.alarm(self, self._loop.clock() + OTHERS_FIRST_S)
                return
            self._in_turn = False
            try:
                client, address = listener.accept()
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    if worker.make_room():
                        continue
                    self._worker.log.warning("no more connections for a moment: %s", error)
                    self.exhausted = True
                elif error.errno not in _TRANSIENT:
                    raise
                return
            worker.connect(client, address, server)


class BrimWorker(RefusingWorker):
    """Serves all connections from one thread; what may block runs in a pool of `threads`.

    An application may have these attributes. `place(environ)` returns where the request runs.
    `refuse_call(environ, start_response, refusal)` answers one that has no room there, or whose
    deadline has passed. `attach(pool)` is called once, `beat()` every second. `tick()` returns a
    context manager, entered around the events of one poll. `watch()` returns a file descriptor and
    what to call with its events, or None. `refuse(environ, status, reason, error)` makes the answer
    to what is no request, or to an application that failed; without it, it is gunicorn's.
    `bounds` is a `limits.bounds.Bounds`: a body beyond them is not read, and its connection is
    closed after the answer.
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
        self.place: Callable[[Mapping[str, Any]], Place] = _place
        self.bounds = Bounds()
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
        self.place = getattr(app, "place", _place)
        self.loop.tick = getattr(app, "tick", nullcontext)
        watched = app.watch() if hasattr(app, "watch") else None
        if watched is not None:
            self.loop.watch(watched[0], select.EPOLLIN, watched[1])
        if hasattr(app, "attach"):
            app.attach(self.pool)
            self.pool.prepare(OWN)
        self.bounds = getattr(app, "bounds", self.bounds)

    @override
    def run(self) -> None:
        self.loop.watch(self.PIPE[0], select.EPOLLIN, self._signalled)
        self.listeners.balance.set(0)
        while self.alive and self.ppid == os.getppid():
            if not self.free:
                self.listeners.find_place()
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
        self.listeners.balance.leave()
        self.listeners.watch(False)
        for connection in list(self.connections):
            connection.drain(LINGER_S)
        give_up_at = self.loop.clock() + self.cfg.graceful_timeout
        while self.connections and not self.quitting and self.loop.clock() < give_up_at:
            self._run_once()

    def _run_once(self) -> None:
        now = self.loop.clock()
        if now >= self._beat_at:
            self._beat_at = now + HEARTBEAT_S
            self.listeners.exhausted = False
            self.notify()
            if hasattr(self.wsgi, "beat"):
                self.wsgi.beat()
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

    def make_room(self) -> bool:
        """Close connections whose request has begun and has not moved for a while; without any,
        those that have been idle for longest, as a client must expect: a new one may be a probe.
        Returns whether there was any.
        """
        limits, now = self.bounds.limits, self.loop.clock()
        # an alarm goes off when the whole time has passed since the last bytes
        whole_s = {State.HEAD: limits.head_timeout_s, State.BODY: limits.body_timeout_s}
        waiting = [c for c in self.connections if c.state in whole_s]
        idle = [c for c in waiting if c.alarm.wakes_at > now + whole_s[c.state]]
        late = [c for c in waiting if c.alarm.wakes_at < now + whole_s[c.state] - PATIENT_S]
        closed = heapq.nsmallest(ROOM, late or idle, key=lambda c: c.alarm.wakes_at)
        for connection in closed:
            connection.close()
        return bool(closed)

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
        connection = Connection(self, client, address, server)
        self.connections.add(connection)
        self.listeners.balance.set(len(self.connections))
        # probes open a connection each time: they are answered before the requests that wait
        if self._tls is None and asks_to_read(client):
            connection.on_event(select.EPOLLIN)

    def closed(self, connection: Connection) -> None:
        """The connection has closed."""
        self.connections.discard(connection)
        if self.alive:
            self.listeners.balance.set(len(self.connections))

    @property
    def keepalive_s(self) -> float:
        """Seconds for which a client may be idle between two requests."""
        keepalive: float = self.cfg.keepalive
        return keepalive if self.alive else min(keepalive, LINGER_S)

    def refusal(self, refusal: Refusal) -> App:
        """An application that answers a request with its refusal."""
        return partial(getattr(self.wsgi, "refuse_call", _refuse_call), refusal=refusal)

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
