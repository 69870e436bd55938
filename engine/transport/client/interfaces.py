"""What an HTTP process makes of an offer: the signature, and the hooks that run here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial

from engine.errors import LoadError
from engine.models.config import ModelConfig
from engine.models.processor import HostProcessor
from engine.models.registry import host_processor
from engine.serving.version import ModelInterface
from engine.transport.protocol.messages import Offer

AskText = Callable[[str, Sequence[int]], bytes]
"""Asks the engine for the text of a model's token ids."""


def interface_of(offer: Offer, config: ModelConfig, ask: AskText) -> ModelInterface:
    """The interface of an offered version. Raises `LoadError`, or what a user's function raises."""
    processor = HostProcessor()
    if offer.host:
        processor = _imported(config, offer.host)
    elif offer.decodes:
        processor = HostProcessor(detokenize=partial(_text, ask, offer.model))
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


def _text(ask: AskText, model: str, tokens: Sequence[int]) -> str:
    return ask(model, tokens).decode()
