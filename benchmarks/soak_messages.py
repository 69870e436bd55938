"""The requests of `benchmarks.soak`, and the check of every answer.

Every row carries the number of its client process, the number of its request and its own number,
so a row of another request is noticed, and its sender is known.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

Array = npt.NDArray[np.float32]

COLUMNS: Final = 16
MOST_ROWS: Final = 200
MOST_SERIAL: Final = 1 << 24
"""float32 holds each whole number below it."""
REFUSALS: Final = frozenset({422, 429, 503, 504})
"""What a request with a short deadline may get instead of its answer."""

_NOISE: Final = np.random.default_rng(1).standard_normal(1 << 16, np.float32)
_START: Final = b"POST /v2/models/null/infer HTTP/1.1\r\nHost: soak\r\n"


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `head` lacks the length of the body and the empty line after it."""

    name: str
    values: Array
    head: bytes
    body: bytes
    timeout_ms: float | None

    def whole(self) -> bytes:
        """Its bytes, with a Content-Length."""
        return b"%bContent-Length: %d\r\n\r\n%b" % (self.head, len(self.body), self.body)

    def chunked(self, rng: random.Random) -> bytes:
        """Its bytes, with the body in chunks of random sizes."""
        cuts = sorted(rng.randrange(1, len(self.body)) for _ in range(rng.randrange(6)))
        ends = [0, *dict.fromkeys(cuts), len(self.body)]
        parts = [self.head, b"Transfer-Encoding: chunked\r\n\r\n"]
        for begin, end in itertools.pairwise(ends):
            parts.append(b"%x\r\n%b\r\n" % (end - begin, self.body[begin:end]))
        return b"".join([*parts, b"0\r\n\r\n"])


class Answer(NamedTuple):
    """One answer; `head` is in lower case."""

    status: int
    head: bytes
    body: bytes


class Wrong(Exception):
    """An answer that is not the one to its request."""


def some_rows(rng: random.Random, most: int = MOST_ROWS) -> int:
    """1 to `most` rows, log-uniform."""
    return int((most + 1) ** rng.random())


def hurry(rng: random.Random) -> float:
    """A timeout of 0.3 to 300 ms, log-uniform."""
    return 0.3 * float(1000 ** rng.random())


def ask(
    rng: random.Random,
    client: int,
    serial: int,
    rows: int,
    *,
    binary: bool,
    timeout_ms: float | None = None,
) -> Ask:
    """Build a request. One that has a timeout may be refused."""
    begin = rng.randrange(len(_NOISE) - rows * COLUMNS)
    x = _NOISE[begin : begin + rows * COLUMNS].reshape(rows, COLUMNS).copy()
    x[:, 0], x[:, 1], x[:, 2] = client, serial, np.arange(rows)
    name, head = f"{client}-{serial}", [_START]
    parameters: dict[str, Any] = {"binary_data_output": True} if binary else {}
    if timeout_ms is not None:
        # a refusal has no id of the protocol, but it has this one
        head.append(b"X-Request-Id: %b\r\n" % name.encode())
        if rng.random() < 0.5:
            parameters["timeout"] = int(timeout_ms * 1e3)
        else:
            head.append(b"X-Request-Timeout-Ms: %.3f\r\n" % timeout_ms)
    tensor: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": x.shape}
    content = {"id": name, "inputs": [tensor], "parameters": parameters}
    if not binary:
        tensor["data"] = x
        body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
        return Ask(name, x, b"".join(head), body, timeout_ms)
    tensor["parameters"] = {"binary_data_size": x.nbytes}
    header = orjson.dumps(content)
    head.append(b"Inference-Header-Content-Length: %d\r\n" % len(header))
    return Ask(name, x, b"".join(head), header + x.tobytes(), timeout_ms)


def field(head: bytes, name: bytes) -> bytes | None:
    """A header of an answer; `name` is in lower case."""
    _, found, rest = head.partition(b"\r\n" + name + b":")
    return rest.partition(b"\r\n")[0].strip() if found else None


def check(ask: Ask, answer: Answer) -> None:
    """Raises `Wrong` unless the answer is the one to this request, or an allowed refusal."""
    if ask.timeout_ms is not None:
        echoed = field(answer.head, b"x-request-id")
        if echoed != ask.name.encode():
            raise Wrong(f"request {ask.name} got the answer to {echoed!r}")
        if answer.status in REFUSALS and "error" in orjson.loads(answer.body):
            return
    if answer.status != 200:
        raise Wrong(f"request {ask.name}: {answer.status} {answer.body[:300]!r}")
    try:
        name, y = _parse(answer)
    except (ValueError, KeyError, TypeError) as error:
        raise Wrong(f"request {ask.name}: {error!r} in {answer.body[:300]!r}") from error
    if name != ask.name:
        raise Wrong(f"request {ask.name} got the answer to {name!r}")
    expected = ask.values * np.float32(2) + np.float32(0.1)
    if y.shape != expected.shape:
        raise Wrong(f"request {ask.name}: shape {y.shape}, expected {expected.shape}")
    if not np.array_equal(y, expected):
        rows = np.flatnonzero((y != expected).any(axis=1))
        first = int(rows[0])
        senders = np.round((y[first, :3] - 0.1) / 2).tolist()
        raise Wrong(
            f"request {ask.name}: {len(rows)} of {len(y)} rows differ; row {first} is that of "
            f"client, request, row {senders}: {y[first].tolist()}, not {expected[first].tolist()}"
        )


def _parse(answer: Answer) -> tuple[str, Array]:
    """The id and the output of an answer."""
    length = field(answer.head, b"inference-header-content-length")
    header = answer.body if length is None else answer.body[: int(length)]
    content = orjson.loads(header)
    (output,) = content["outputs"]
    if output["name"] != "y" or output["datatype"] != "FP32":
        raise ValueError("another output")
    if length is None:
        y = np.array(output["data"], np.float32)
    else:
        y = np.frombuffer(answer.body, np.float32, offset=int(length))
    return content["id"], y.reshape(output["shape"])
