"""Brim's app inside a user's middleware, for gunicorn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from app.hosting.process import build, settings_or_exit

Wsgi = Callable[..., Iterable[bytes]]


def loud(wrapped: Wsgi) -> Wsgi:
    """Calls the app with a copy of the environ, and makes its responses upper-case."""

    def call(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        parts = wrapped(environ.copy(), start_response)
        return (part.upper() for part in parts)

    return call


app = build(settings_or_exit())
app.wsgi_app = loud(app.wsgi_app)  # type: ignore[method-assign]
