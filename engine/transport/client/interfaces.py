"""What an HTTP process makes of an offer: the signature, and the hooks that run here."""

from __future__ import annotations

import sys

from engine.errors import LoadError
from engine.models.config import ModelConfig
from engine.models.processor import HostProcessor
from engine.models.registry import host_processor
from engine.serving.version import ModelInterface
from engine.transport.protocol.messages import Offer


def interface_of(offer: Offer, config: ModelConfig) -> ModelInterface:
    """The interface of an offered version. Raises `LoadError`, or what a user's function raises."""
    processor = _imported(config, offer.host) if offer.host else HostProcessor()
    return ModelInterface(
        offer.version, offer.signature(), processor, offer.host, hooked=offer.hooked
    )


def _imported(config: ModelConfig, host: str) -> HostProcessor:
    before = "jax" in sys.modules
    processor = host_processor(config, host)
    if "jax" in sys.modules and not before:
        raise LoadError(
            f"{host} imports JAX, and JAX belongs to the engine's process alone; move the function "
            "to a module that does not, or give preprocess and postprocess to Model"
        )
    return processor
