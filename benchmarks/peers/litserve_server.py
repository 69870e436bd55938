"""LitServe: FastAPI in front, one process that computes. It takes JSON only."""

from __future__ import annotations

import os
from typing import Any

import litserve
import numpy as np
from functions import Compiled


class Api(litserve.LitAPI):  # type: ignore[misc]
    """Rows together through the buckets."""

    def setup(self, device: str) -> None:
        self.model = Compiled(os.environ["MODEL"])

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # an annotation is a query
        return np.asarray(request["x"], np.float32)

    def batch(self, inputs: list[Any]) -> np.ndarray:
        return np.stack(inputs)

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.model(x)

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        return list(output)

    def encode_response(self, output: np.ndarray) -> dict[str, Any]:
        return {"y": output.tolist()}


if __name__ == "__main__":
    api = Api(max_batch_size=64, batch_timeout=int(os.environ["WINDOW"]) / 1e3)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        log_level="error",
        generate_client_file=False,
    )
