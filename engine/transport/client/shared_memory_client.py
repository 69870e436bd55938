"""The engine of another process; see `engine.api.EngineClient`."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, TypeVar

import msgspec

from engine.errors import BrimError, EngineLost, ShuttingDown
from engine.models.config import ModelConfig
from engine.models.model import ModelState
from engine.serving.version import find
from engine.telemetry.snapshots import (
    EngineSnapshot,
    EngineStatus,
    LoadSnapshot,
    ModelSnapshot,
    ModelStatus,
)
from engine.transport.client.asks import Asks
from engine.transport.client.endpoint import FRESH_S, Offered, RemoteEndpoint
from engine.transport.client.interfaces import interface_of
from engine.transport.client.link import LOST, Link
from engine.transport.client.statuses import unknown, with_status
from engine.transport.client.wakeups import Coalescing, Wakeups
from engine.transport.protocol import messages
from engine.transport.protocol.layout import Layouts
from engine.transport.protocol.messages import MessageSocket, same_user
from engine.transport.protocol.rings import BrokenRing
from engine.transport.protocol.status import StatusPage

log = logging.getLogger("brim.engine")

SILENT_S: Final = 3.0
"""Seconds. An engine that has not written its page for longer is stopped or stuck."""
DEAD_S: Final = 120.0
"""Seconds. A supervisor ends a silent engine long before; without one this process is of no use."""
RECONNECT_S: Final = 0.05
CLOSING_S: Final = 0.01

M = TypeVar("M", bound=ModelStatus)

_SNAPSHOT: Final = msgspec.msgpack.Decoder(EngineSnapshot)


class SharedMemoryClient:
    """Connects to the engine's process, and again when that was replaced.

    A thread receives messages. Outcomes are taken by the host's event loop (`watch`), or by a
    thread that is started with the first request.
    """

    def __init__(self, models: Sequence[ModelConfig], address: bytes, page: StatusPage) -> None:
        """`address` is where the engine's process listens; `page` is what it writes."""
        self._endpoints = {
            config.name: RemoteEndpoint(index, config, self) for index, config in enumerate(models)
        }
        self._address = address
        self._page = page
        self._link: Link | None = None
        self._asks = Asks()
        self._last: EngineSnapshot | None = None
        self._uncounted: Counter[tuple[str, int]] = Counter()
        self._draining = self._lost_engine = False
        self._changed = threading.Condition()
        self._wakeups = Wakeups(self.take_outcomes)
        self._thread = threading.Thread(target=self._run, name="brim-engine-link", daemon=True)

    # --- life ------------------------------------------------------------------------------------

    def start(self, wait_s: float = 10.0) -> None:
        """Connect, in the background. If models serve already, wait up to `wait_s` seconds until
        this process can serve them too, so that it does not refuse what others answer.
        """
        self._thread.start()
        status = self._page.read()
        serving = [m.name for m in status.models if m.serving] if status is not None else []
        with self._changed:
            self._changed.wait_for(
                lambda: all(self._endpoints[name].offered is not None for name in serving), wait_s
            )

    def watch(self) -> tuple[int, Callable[[int], object]]:
        """A file descriptor that can be read when outcomes are there, and what to call then. The
        caller does so from now on.
        """
        self._wakeups.hosted = True
        return self._wakeups.fd, lambda _events: self.take_outcomes()

    def leave(self, timeout_s: float) -> None:
        """Stop serving while other processes go on: refuse nothing, but after `timeout_s` seconds,
        or with `close`, every request has an outcome. Waits for that.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._address, timeout_s)
        self.close(0.0)

    def drain(self) -> None:
        """Refuse new requests; `ready` becomes false. Returns at once."""
        self._draining = True

    def close(self, timeout_s: float = 30.0) -> None:
        """Refuse, wait for what is open, disconnect: after `timeout_s` seconds at most, every
        request has an outcome. Idempotent.
        """
        self.drain()
        give_up_at = time.monotonic() + timeout_s
        while (link := self._link) is not None and link.open and time.monotonic() < give_up_at:
            time.sleep(CLOSING_S)
            self.take_outcomes()
        with self._changed:
            link, self._address = self._link, b""
            self._changed.notify_all()
        if link is not None:
            link.hang_up()
        if self._thread.ident is not None:
            self._thread.join()
        self._wakeups.close()

    def _run(self) -> None:
        while address := self._address:
            try:
                link = self._connect(address)
                try:
                    self._use(link)
                finally:
                    self._lose(link)
            except OSError as error:
                log.debug("cannot connect to the engine: %s", error)
                time.sleep(RECONNECT_S)
            except Exception:  # without this thread the process would serve no request any more
                log.exception("the connection to the engine has failed; another one is made")
                time.sleep(RECONNECT_S)

    def _use(self, link: Link) -> None:
        with self._changed:
            self._link = link
            if not self._address:  # `close` came first
                link.hang_up()
        self._wakeups.add(link.event)
        try:
            self._receive(link)
        except Exception:
            log.exception("the connection to the engine has failed")

    def _connect(self, address: bytes) -> Link:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.connect(address)
            if not same_user(sock):
                raise PermissionError("the engine's address belongs to another user")
            link = Link(MessageSocket(sock))
        except BaseException:
            sock.close()
            raise
        with self._changed:
            uncounted, self._uncounted = self._uncounted, Counter()
        for (model, error), count in uncounted.items():
            link.count_refusal(model, error, count)
        return link

    def _receive(self, link: Link) -> None:
        """Handle messages until the engine is gone."""
        while True:
            try:
                received = link.messages.receive()
            except ConnectionError:
                return
            if received is None:
                return
            message, fds = received
            match message:
                case messages.Offer():
                    self._accept(link, message)
                case messages.Parcel():
                    link.take_parcel(message.request, message.size, fds.pop())
                case messages.Answer():
                    self._asks.answer(message)
                case _:
                    raise ValueError(f"unexpected message {message!r}")

    def _accept(self, link: Link, offer: messages.Offer) -> None:
        endpoint = self._endpoints[offer.model]
        try:
            interface = interface_of(offer, endpoint.config)
        except BaseException as error:  # whatever a user's function raises, SystemExit too
            log.exception("model %s cannot be served", offer.model)
            problem = f"its host {offer.host!r} failed: {type(error).__name__}: {error}"
            link.messages.send(messages.Accept(offer.model, problem))
            return
        with self._changed:
            layouts, costs = Layouts(interface.signature), offer.cost_table()
            endpoint.offered = Offered(link, interface, layouts, costs)
            self._lost_engine = False
            self._changed.notify_all()
        link.messages.send(messages.Accept(offer.model))

    def _lose(self, link: Link) -> None:
        if not self._draining:
            log.warning("the engine's process has ended; waiting for the next one")
        self._wakeups.remove(link.event)
        for endpoint in self._endpoints.values():
            endpoint.offered = None
        self._link = None
        self._lost_engine = True
        self._asks.lose()
        link.lose(self._lost)

    def _lost(self) -> BrimError:
        if self._draining:
            return ShuttingDown("the server stopped before the answer", 1.0)
        return EngineLost(LOST, 1.0)

    # --- requests --------------------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        """The configured models, in the order of the configuration."""
        return tuple(self._endpoints)

    def endpoint(self, name: str, version: str | None = None) -> RemoteEndpoint:
        """A configured model. Raises `UnknownModel` or `UnknownVersion`."""
        return find(self._endpoints, name, version)

    def coalesce(self) -> Coalescing:
        """Requests that one thread submits inside reach the engine together, at the end."""
        return Coalescing(self._link)

    def take_outcomes(self) -> None:
        """Set the outcomes that are here, and call their listeners."""
        link = self._link
        if link is None:
            return
        try:
            link.take_outcomes()
        except (BrokenRing, KeyError):
            log.exception("the engine has broken the protocol")
            link.hang_up()

    def ensure_outcomes(self) -> None:
        """Take outcomes on a thread, unless the host watches for them."""
        self._wakeups.ensure()

    def count_refusal(self, model: str, error: int) -> None:
        """Tell the engine that a request was refused before it came."""
        link = self._link
        if link is not None:
            link.count_refusal(model, error)
            return
        with self._changed:
            self._uncounted[model, error] += 1

    # --- state -----------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether traffic may come: every required model serves, and at least one."""
        return self.status().ready

    def status(self) -> EngineStatus:
        """Whether every model serves at this moment, and how soon."""
        return EngineStatus(tuple(map(self.model_status, range(len(self._endpoints)))))

    def model_status(self, index: int) -> ModelStatus:
        """The status of a model, from the page."""
        return self._timed(self.known_status(index))

    def known_status(self, index: int) -> ModelStatus:
        """The same, whether the engine still writes the page or not."""
        status = self._page.read()
        if status is None:
            return unknown(list(self._endpoints.values())[index].config)
        return self._masked(status.models[index])

    def _masked(self, model: M) -> M:
        """What of it is true here."""
        if model.state is not ModelState.READY:
            return model
        if self._draining:
            return replace(model, state=ModelState.DRAINING)
        if self._endpoints[model.name].offered is None:
            if self._lost_engine:  # the page is still that of its last moment
                return replace(model, state=ModelState.LOADING, reason=LOST)
            return replace(model, state=ModelState.WARMING)
        return model

    def _timed(self, model: M) -> M:
        """Stalled, if it serves and the page is old."""
        silent_s = time.monotonic() - self._page.beaten_at
        if model.state is ModelState.READY and silent_s > SILENT_S:
            load = replace(model.load, stalled_s=silent_s, hung=silent_s > DEAD_S)
            reason = f"the engine's process has been silent for {silent_s:.0f} s"
            return replace(model, load=load, reason=reason)
        return model

    def load(self, index: int) -> tuple[LoadSnapshot, float] | None:
        """The load of a model and when it was so, if that is less than `FRESH_S` ago."""
        at, status = self._page.beaten_at, self._page.read()
        if status is None or time.monotonic() - at > FRESH_S:
            return None
        return status.models[index].load, at

    def snapshot(self) -> EngineSnapshot:
        """State and statistics of every model at this moment; the last known statistics, if the
        engine does not answer.
        """
        link = self._link
        try:
            if link is None:
                raise EngineLost(LOST, 1.0)
            self._last = _SNAPSHOT.decode(self._asks.ask(link))
        except EngineLost:
            return self._remembered()
        models = tuple(self._timed(self._masked(model)) for model in self._last.models)
        return replace(self._last, models=models)

    def _remembered(self) -> EngineSnapshot:
        before = {} if self._last is None else {model.name: model for model in self._last.models}
        models = tuple(with_status(before.get(m.name), m) for m in self.status().models)
        return EngineSnapshot(models, 0 if self._last is None else self._last.compiles_after_ready)

    def model_snapshot(self, index: int) -> ModelSnapshot:
        """The status of a model with all statistics."""
        return self.snapshot().models[index]
