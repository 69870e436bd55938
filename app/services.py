"""What the views work with, handed to the app when it is made.

May touch: flask, to find it again from inside a request.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, cast

from flask import Request, current_app, g, request

from app.gate import Gate
from app.hangup import HangupWatcher
from engine.engine import Engine

VERSION = version("brim")
MODEL_VERSION = "1"


@dataclass(frozen=True, slots=True)
class Services:
    """The engine, and what a waiting request needs."""

    engine: Engine
    gate: Gate
    hangups: HangupWatcher


def services() -> Services:
    """Those of the app that serves this request."""
    return cast("Services", current_app.extensions["brim"])


def this_request() -> Request:
    """Flask's request itself. Its proxy looks it up again for every attribute that is asked for."""
    return cast("Request", request._get_current_object())  # type: ignore[attr-defined]


def this_g() -> Any:
    """Flask's `g` itself, for the same reason."""
    return g._get_current_object()
