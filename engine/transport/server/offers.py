"""What is offered to HTTP processes, and which of them have accepted it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from engine.models.model import ModelState
from engine.serving.client import InProcessClient
from engine.telemetry.snapshots import (
    EngineSnapshot,
    EngineStatus,
    HooksSnapshot,
    ModelStatus,
)
from engine.transport.protocol.layout import Layouts
from engine.transport.protocol.messages import Accept, Offer, Refused
from engine.transport.protocol.outcomes import error_of
from engine.transport.protocol.status import LONGEST_REASON
from engine.transport.server.channel import Channel
from engine.transport.server.hooks import HookLoad, HookThreads
from engine.transport.server.requests import Served

S = TypeVar("S", bound=ModelStatus)


class Offers:
    """The versions that HTTP processes may send requests to, and which of them have accepted.

    A model becomes READY for others when every connected process can serve it: a client that reads
    READY may be answered by any of them. A process that connects later accepts no client before.
    """

    def __init__(self, client: InProcessClient, threads: HookThreads) -> None:
        """`threads` run the hooks of this process."""
        self._client = client
        self._threads = threads
        self.channels: set[Channel] = set()
        self.served: list[Served | None] = [None] * len(client.names)
        self._messages: dict[str, Offer] = {}
        self._waiting: dict[str, set[Channel]] = {}
        self._accepted: set[str] = set()

    def join(self, channel: Channel) -> None:
        """A process has connected."""
        self.channels.add(channel)
        for name, offer in self._messages.items():
            channel.send(offer)
            self._waiting[name].add(channel)

    def leave(self, channel: Channel) -> None:
        """A process has gone."""
        self.channels.discard(channel)
        for waiting in self._waiting.values():
            waiting.discard(channel)

    def extend(self) -> None:
        """Offer the versions that became READY."""
        for index, name in enumerate(self._client.names):
            endpoint = self._client.endpoint(name)
            if self.served[index] is not None or endpoint.status().state is not ModelState.READY:
                continue
            offer = Offer.of(name, endpoint.interface, endpoint.snapshot().cost_table)
            grid, signature = endpoint.config.grid, endpoint.interface.signature
            self.served[index] = Served(endpoint, endpoint.home, Layouts(signature), grid)
            self._messages[name] = offer
            self._waiting[name] = set(self.channels)
            for channel in self.channels:
                channel.send(offer)

    def accepted(self, channel: Channel, message: Accept) -> None:
        """A process can serve a model now; or it never will, and then the model has failed."""
        self._waiting[message.model].discard(channel)
        if message.error:
            self._client.endpoint(message.model).fail(message.error)

    def count(self, refused: Refused) -> None:
        """Count refusals of another process."""
        endpoint = self._client.endpoint(refused.model)
        for _ in range(refused.count):
            endpoint.count_refusal(error_of(refused.error, "", 0.0))

    def status(self) -> EngineStatus:
        """What HTTP processes may know."""
        return EngineStatus(self._all_masked(self._client.status().models))

    def snapshot(self) -> EngineSnapshot:
        """The same with all statistics."""
        snapshot = self._client.snapshot()
        return replace(snapshot, models=self._all_masked(snapshot.models))

    def _all_masked(self, models: Sequence[S]) -> tuple[S, ...]:
        lanes = self._threads.load()
        return tuple(self._masked(with_hooks(model, lanes.get(model.name))) for model in models)

    def _masked(self, model: S) -> S:
        reason = model.reason
        if reason is not None and len(reason) > LONGEST_REASON:
            model = replace(model, reason=f"{reason[:LONGEST_REASON]}…")
        if model.state is not ModelState.READY or model.name in self._accepted:
            return model
        if model.name not in self._messages or self._waiting[model.name]:
            return replace(model, state=ModelState.WARMING)
        self._accepted.add(model.name)
        return model


def with_hooks(model: S, hooks: HookLoad | None) -> S:
    """The same, with what the threads of its hooks do."""
    if hooks is None:
        return model
    load = HooksSnapshot(hooks.waiting, hooks.busy, hooks.stuck, hooks.blocked)
    return replace(model, load=replace(model.load, hooks=load))
