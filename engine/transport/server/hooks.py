"""Runs the hooks that only this process has, beside the engine's own threads.

A `preprocess` or `postprocess` that closes over the weights, or whose module imports JAX, cannot
run in the HTTP processes. It runs here, in a pool, and so competes with the engine for the GIL.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from engine.errors import BrimError
from engine.models.processor import failure
from engine.runtime.pending import PendingResult
from engine.transport.protocol.layout import pack, unpack
from engine.transport.server.channel import Channel
from engine.transport.server.requests import PackedRequest

log = logging.getLogger("brim.engine")

THREADS: Final = 8
"""More threads that compute at the same time are slower."""


class HookRunner:
    """Takes requests from their packed inputs to their packed outputs."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, "brim-hooks")

    def run(self, channel: Channel, request: PackedRequest) -> None:
        """Prepare and submit on a thread of the pool; the channel gets the outcome."""
        begin = partial(self._begin, channel, request)
        self._submit(partial(self._guarded, channel, request, begin))

    def _submit(self, call: Callable[[], None]) -> None:
        try:
            self._pool.submit(call)
        except RuntimeError:  # `close`: this process ends, and its clients see that
            log.debug("a hook was not run: the engine is closed")

    def _begin(self, channel: Channel, request: PackedRequest) -> None:
        endpoint = request.endpoint
        interface = endpoint.admit()
        arrays, _ = unpack(request.place.read(request.size))
        timeout_s = request.deadline - time.monotonic()
        prepared = endpoint.prepare(interface, arrays, timeout_s, request.priority)
        result = endpoint.submit(prepared)
        channel.opened(request.number, result)
        end = partial(self._guarded, channel, request, lambda: self._end(channel, request, result))
        result.on_ready(lambda _results: self._submit(end))

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
        self._pool.shutdown(wait=False, cancel_futures=True)
