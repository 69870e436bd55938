"""Triton's Python backend: `model.py` of a model repository. Triton batches, this computes."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

# the backend's process takes the environment of Triton and not its PYTHONPATH
sys.path.insert(0, os.environ["PEER_PACKAGES"])

import numpy as np
import triton_python_backend_utils as pb_utils
from functions import Compiled


class TritonPythonModel:
    """All rows of the requests that Triton has put together, through the buckets."""

    def initialize(self, args: dict[str, str]) -> None:
        self.model = Compiled(json.loads(args["model_config"])["name"])

    def execute(self, requests: list[Any]) -> list[Any]:
        # DLPack and not `as_numpy`: the backend was built for numpy 1, and misreads arrays of 2
        tensors = [pb_utils.get_input_tensor_by_name(one, "x") for one in requests]
        rows = [np.from_dlpack(tensor) for tensor in tensors]
        outputs = self.model(np.concatenate(rows))
        answers, at = [], 0
        for row in rows:
            part = np.array(outputs[at : at + len(row)], np.float32)
            at += len(row)
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack("y", part)]))
        return answers
