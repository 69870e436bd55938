"""Hooks that hang until the test opens a gate. Imports no JAX: they run in the HTTP processes."""

from __future__ import annotations

import time
from pathlib import Path

from brim import Arrays, HostProcessor, Prepared


def host(gate: str, beside_the_engine: bool = False) -> HostProcessor:
    """Rows above zero wait for the file `gate` before the device, those that come back below -10
    after it.
    """

    def wait() -> None:
        while not Path(gate).exists():
            time.sleep(0.01)

    def preprocess(inputs: Arrays) -> Prepared:
        if (inputs["x"] > 0).any():
            wait()
        return Prepared(dict(inputs))

    def postprocess(outputs: Arrays) -> Arrays:
        if (outputs["y"] < -10).any():
            wait()
        return outputs

    return HostProcessor(preprocess, postprocess)
