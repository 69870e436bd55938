"""A model's own example as an infer request, for people to send and for the document to show.

May touch: nothing.
"""

from __future__ import annotations

from typing import Any

from app.codec.oip import BINARY_ONLY
from engine.model import Model


def example_request(model: Model) -> dict[str, Any] | None:
    """The JSON of a request, its data flat, or None for a model that has none for JSON."""
    if model.example is None or any(spec.datatype in BINARY_ONLY for spec in model.inputs):
        return None
    inputs = []
    for spec in model.inputs:
        flat = model.example[spec.name]
        shape = [len(flat)]
        while flat and isinstance(flat[0], list):
            shape.append(len(flat[0]))
            flat = [value for part in flat for value in part]
        inputs.append({"name": spec.name, "datatype": spec.datatype, "shape": shape, "data": flat})
    return {"inputs": inputs}
