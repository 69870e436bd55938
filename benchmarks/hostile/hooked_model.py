"""y = x on one float, with a hook in the HTTP processes that sleeps for -x seconds."""

from __future__ import annotations

import time

from brim import Arrays, HostProcessor, Model, Prepared, TensorSpec


def host() -> HostProcessor:
    """The hook."""
    return HostProcessor(preprocess=_sleep)


def _sleep(inputs: Arrays) -> Prepared:
    time.sleep(max(0.0, -float(inputs["x"].min())))
    return Prepared(inputs)


def create() -> Model:
    """The factory; the model has no weights."""
    return Model(
        apply=lambda _params, inputs: {"y": inputs["x"]},
        params={},
        inputs=(TensorSpec("x", "FP32", (1,)),),
        outputs=(TensorSpec("y", "FP32", (1,)),),
        host="hooked_model:host",
    )
