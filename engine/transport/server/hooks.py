"""Runs the hooks that only this process has, beside the engine's own threads.

A `preprocess` or `postprocess` that closes over the weights, or whose module imports JAX, cannot
run in the HTTP processes. It runs here, on threads of its model, and so competes with the engine
for the GIL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from engine.errors import BrimError, DeadlineExceeded
from engine.models.processor import failure
from engine.runtime.pending import PendingResult
from engine.transport.protocol.layout import pack, unpack
from engine.transport.server.channel import Channel
from engine.transport.server.requests import HookCall, PackedRequest


class HookLoad(Protocol):
    """What the threads of one model do."""

    @property
    def waiting(self) -> int:
        """Hooks that wait for a thread."""

    @property
    def busy(self) -> int:
        """Threads in a hook."""

    @property
    def stuck(self) -> int:
        """Those of them whose request was given up."""

    @property
    def blocked(self) -> bool:
        """Whether all threads hang."""


class HookThreads(Protocol):
    """The threads for the hooks of this process; the composition root makes them."""

    def job(self, call: Callable[[], object], deadline: float) -> HookCall:
        """A call that is worth nothing after `deadline`."""

    def make(self, lane: str, job: Any, *, first: bool = False) -> BrimError | None:
        """Make a call. Returns the refusal if it cannot be in time. With `first` there is none, and
        it comes before all others.
        """

    def load(self) -> Mapping[str, HookLoad]:
        """By the model's name."""

    def close(self) -> None:
        """End the threads; one whose hook hangs ends with the process."""


class HookRunner:
    """Takes requests from their packed inputs to their packed outputs.

    A request that is withdrawn meanwhile has its outcome at once: what its hook still does is
    dropped. The channel decides which of two comes first.
    """

    def __init__(self, threads: HookThreads) -> None:
        self._threads = threads

    def run(self, channel: Channel, request: PackedRequest) -> None:
        """Prepare and submit on a thread of the model; the channel gets the outcome."""
        refused = self._submit(channel, request, partial(self._begin, channel, request))
        if refused is not None:
            request.endpoint.count_refusal(refused)
            channel.answer(request, refused)

    def _submit(
        self,
        channel: Channel,
        request: PackedRequest,
        step: Callable[[], None],
        *,
        first: bool = False,
    ) -> BrimError | None:
        call = partial(self._guarded, channel, request, step)
        request.hook = self._threads.job(call, request.deadline)
        return self._threads.make(request.endpoint.name, request.hook, first=first)

    def _begin(self, channel: Channel, request: PackedRequest) -> None:
        endpoint = request.endpoint
        interface = endpoint.admit()
        arrays, _ = unpack(request.place.read(request.size))
        arrived_at = request.enqueued_at
        timeout_s = request.deadline - arrived_at
        try:
            prepared = endpoint.prepare(interface, arrays, timeout_s, request.priority, arrived_at)
        except DeadlineExceeded as error:
            if channel.answer(request, error):
                endpoint.count_refusal(error)
            return
        if not channel.wants(request):
            return
        result = endpoint.submit(prepared)
        channel.opened(request, result)
        result.on_ready(lambda _results: self._computed(channel, request, result))

    def _computed(self, channel: Channel, request: PackedRequest, result: PendingResult) -> None:
        if result.error is not None:
            channel.answer(request, result.error)
            return
        channel.reopened(request)
        self._submit(channel, request, partial(self._end, channel, request, result), first=True)

    def _end(self, channel: Channel, request: PackedRequest, result: PendingResult) -> None:
        prepared = result.request.prepared
        channel.answer(request, pack(result.result(), prepared.parameters, prepared.tokens))

    def _guarded(self, channel: Channel, request: PackedRequest, step: Callable[[], None]) -> None:
        """An error is the outcome of the request, whatever a hook raises: SystemExit too."""
        try:
            step()
        except BrimError as error:
            channel.answer(request, error)
        except BaseException as error:
            channel.answer(request, failure("internal error in the engine's process", error))

    def close(self) -> None:
        """End the threads; one whose hook hangs ends with the process."""
        self._threads.close()
