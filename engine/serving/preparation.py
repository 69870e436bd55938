"""The host side of a request: check, preprocess, validate. Runs in the thread of the request."""

from __future__ import annotations

from collections.abc import Callable

from engine.errors import BrimError, DeadlineExceeded, InvalidRequest
from engine.models.config import ModelConfig
from engine.models.processor import Prepared, TokenIds
from engine.models.signature import Signature
from engine.models.tensors import Arrays, Extent, validate
from engine.runtime.request import Request, too_many_rows
from engine.scheduling.admission import AdmissionProbe
from engine.scheduling.request_queue import DEFAULT_PRIORITY, LOWEST_PRIORITY
from engine.serving.version import ModelInterface


class RequestPreparer:
    """Makes requests for one configured model."""

    def __init__(
        self,
        config: ModelConfig,
        clock: Callable[[], float],
        probe: Callable[[AdmissionProbe], BrimError | None],
        count_refusal: Callable[[BrimError, int], object],
    ) -> None:
        """`probe` returns the refusal that such a request would get now, or None."""
        self._grid = config.grid
        self._max_rows = config.max_request_rows
        self._timeout_s = config.timeout_s
        self._clock = clock
        self._probe = probe
        self._count_refusal = count_refusal

    def prepare(
        self,
        interface: ModelInterface,
        inputs: Arrays | TokenIds,
        timeout_s: float | None,
        priority: int,
        arrived_at: float | None = None,
    ) -> Request:
        """Client tensors, rows first, or token ids become a request, which arrived at `arrived_at`
        or now.

        `timeout_s` can only shorten the model's own. `priority` 1 is the highest, 9 the lowest, 0
        the default, which is 5. Raises `InvalidRequest`, `ExecutionFailed` for an error in the
        model's `preprocess`, the refusal of a request that has one and cannot be answered, or
        `DeadlineExceeded` where the `preprocess` has taken all its time.
        """
        arrived_at = self._clock() if arrived_at is None else arrived_at
        if not 0 <= priority <= LOWEST_PRIORITY:
            problem = f"got {priority}, expected 1 (highest) to {LOWEST_PRIORITY}, or 0"
            raise InvalidRequest("parameters.priority", problem)
        wanted = self._timeout_s if timeout_s is None else timeout_s
        # in this order a NaN is not a limit; a deadline of NaN would never pass
        deadline = arrived_at + min(self._timeout_s, wanted)
        level = priority or DEFAULT_PRIORITY
        signature, grid = interface.signature, self._grid
        prepared = self._preprocess(interface, inputs, arrived_at, deadline, level)
        if interface.hooked:  # the engine's process does the rest
            extent = Extent(_rows(signature, inputs), grid.max_length)
        else:
            extent = validate(signature.device_inputs, prepared.inputs, grid.max_length)
        self._check_rows(extent.rows)
        bucket_length = grid.fit_length(extent.length)
        return Request(
            prepared, extent, bucket_length, arrived_at, deadline, level, interface.processor
        )

    def _check_rows(self, rows: int) -> None:
        if rows > self._max_rows:
            raise too_many_rows("inputs", rows, self._max_rows)

    def _preprocess(
        self,
        interface: ModelInterface,
        inputs: Arrays | TokenIds,
        now: float,
        deadline: float,
        priority: int,
    ) -> Prepared:
        if interface.processor.preprocess is None and not interface.hooked:
            return interface.processor.prepare(inputs)
        rows = _rows(interface.signature, inputs)
        self._check_rows(rows)
        # under overload most requests are refused: those that could not be answered in time even if
        # all their rows were short are refused before the preprocess is paid for
        refusal = self._probe(
            AdmissionProbe(rows, self._grid.bucket_lengths[0], now, deadline, priority)
        )
        if refusal is not None:
            self._count_refusal(refusal, rows)
            raise refusal
        prepared = interface.processor.prepare(inputs)
        if self._clock() >= deadline:
            allowed = deadline - now
            raise DeadlineExceeded(f"no answer within {allowed:.3g} s: preprocess took longer")
        return prepared


def _rows(signature: Signature, inputs: Arrays | TokenIds) -> int:
    """The number of rows of valid inputs. Raises `InvalidRequest`."""
    if isinstance(inputs, TokenIds):
        return len(inputs.rows)
    return validate(signature.inputs, inputs).rows
