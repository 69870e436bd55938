"""mosec: one worker process that batches.

`PEER_ENCODING` may also be `orjson`, which overrides mosec's serialization as its documentation
shows. A window of 0 is only possible with `--wait 0`: 0 as `max_wait_time` means 10 ms.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import orjson
from mosec import Server, Worker

from benchmarks.peers.functions import ROWS, Function


class Plain(Worker):
    """JSON as mosec has it by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.function = Function(os.environ["PEER_MODEL"])

    def forward(self, data: list[Any]) -> list[Any]:
        """A batch of requests -> as many answers."""
        x = np.asarray([each["x"] for each in data], self.function.dtype)
        return [{"y": row.tolist()} for row in self.function(x)]


class Orjson(Plain):
    """JSON by orjson, which writes numpy's arrays itself."""

    def deserialize(self, data: bytes) -> Any:
        """One body."""
        return np.asarray(orjson.loads(data)["x"], self.function.dtype)

    def forward(self, data: list[Any]) -> list[Any]:
        """A batch of rows -> as many rows."""
        return list(self.function(np.stack(data)))

    def serialize(self, data: Any) -> bytes:
        """One answer."""
        return orjson.dumps({"y": data}, option=orjson.OPT_SERIALIZE_NUMPY)


class Binary(Orjson):
    """Bytes."""

    resp_mime_type = "application/octet-stream"

    def deserialize(self, data: bytes) -> Any:
        """One body."""
        return np.frombuffer(data, self.function.dtype)

    def serialize(self, data: Any) -> bytes:
        """One answer."""
        return bytes(data.tobytes())


WORKERS = {"json": Plain, "orjson": Orjson, "binary": Binary}

if __name__ == "__main__":
    server = Server()
    server.append_worker(WORKERS[os.environ["PEER_ENCODING"]], num=1, max_batch_size=ROWS[-1])
    server.run()
