"""The model of Triton's Python backend: runs the queued requests as one batch.

Tensors travel by DLPack. The backend's own conversion was built for numpy 1, and gives wrong values
with numpy 2, which JAX needs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as backend

sys.path.append(str(Path(__file__).resolve().parents[3]))

from benchmarks.peers.functions import Function


class TritonPythonModel:
    """The name and the methods are the backend's."""

    def initialize(self, args: dict[str, str]) -> None:
        """Compile."""
        self.function = Function(args["model_name"])
        # numpy's capsules warn on stderr, once per tensor, that the backend has renamed them:
        # harmless, but slow
        sys.unraisablehook = lambda _unraisable: None

    def execute(self, requests: list[Any]) -> list[Any]:
        """As many responses as requests, of one row or several each."""
        tensors = [backend.get_input_tensor_by_name(request, "x") for request in requests]
        parts = [np.from_dlpack(tensor) for tensor in tensors]
        y = self.function(np.concatenate(parts)).copy()  # DLPack accepts no read-only array
        ends = np.cumsum([len(part) for part in parts[:-1]], dtype=int)
        return [
            backend.InferenceResponse([backend.Tensor.from_dlpack("y", rows)])
            for rows in np.split(y, ends)
        ]
