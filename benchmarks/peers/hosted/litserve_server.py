"""LitServe: one process for HTTP, one that batches; between them ZeroMQ, its fast queue.

No annotation may be a string: LitServe passes that of `request` to FastAPI.
"""

import os
from typing import Annotated, Any

import litserve
import numpy as np
from fastapi import Body, Response

from benchmarks.peers.functions import ROWS, Function


class Json(litserve.LitAPI):
    """JSON as LitServe has it by itself."""

    def setup(self, _device: str) -> None:
        """In the process that computes."""
        self.function = Function(os.environ["PEER_MODEL"])

    def decode_request(self, request):
        """One body."""
        return np.asarray(request["x"], self.function.dtype)

    def batch(self, inputs: list[Any]) -> Any:
        """Rows into one array."""
        return np.stack(inputs)

    def predict(self, x: Any) -> Any:
        """A batch of rows -> as many rows."""
        return self.function(x)

    def unbatch(self, output: Any) -> list[Any]:
        """Rows again."""
        return list(output)

    def encode_response(self, output):
        """One answer."""
        return {"y": output.tolist()}


class Binary(Json):
    """Bytes, which FastAPI gives as they are where the body is no JSON."""

    def decode_request(self, request: Annotated[bytes, Body()]) -> Any:
        """One body."""
        return np.frombuffer(request, self.function.dtype)

    def encode_response(self, output: Any) -> Response:
        """One answer."""
        return Response(output.tobytes(), media_type="application/octet-stream")


APIS = {"json": Json, "binary": Binary}

if __name__ == "__main__":
    api = APIS[os.environ["PEER_ENCODING"]](
        max_batch_size=ROWS[-1], batch_timeout=int(os.environ["PEER_WINDOW_US"]) / 1e6
    )
    server = litserve.LitServer(api, accelerator="cpu", devices=1, fast_queue=True)
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PEER_PORT"]),
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )
