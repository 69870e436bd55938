"""mosec: one process that reads and batches (Rust), one that computes."""

from __future__ import annotations

import os

import numpy as np
from functions import Compiled, decode, encode
from mosec import Server, Worker


class Compute(Worker):
    """Rows together through the buckets; bodies are read and written here, with orjson."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Compiled(os.environ["MODEL"])
        self.binary = os.environ["ENCODING"] == "binary"

    def deserialize(self, data: bytes) -> np.ndarray:
        return decode(data)

    def serialize(self, data: np.ndarray) -> bytes:
        return encode(data, self.binary)

    def forward(self, data: list[np.ndarray]) -> list[np.ndarray]:
        return list(self.model(np.stack(data)))


if __name__ == "__main__":
    server = Server()
    # in ms; 0 is not allowed, 1 is the shortest window that mosec has
    server.append_worker(Compute, num=1, max_batch_size=64, max_wait_time=int(os.environ["WINDOW"]))
    server.run()
